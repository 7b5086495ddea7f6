"""The policy loss against cases written out, and the estimate of KL against its expectation."""

import pytest
import torch

from katlit.losses.policy import clipped, effective_sample_share, importance_weights, k3, policy_loss
from katlit.losses.reduce import token_mean

LOW, HIGH = 0.2, 0.28
# ratios below, inside and above the bounds, each with either sign of advantage
RATIOS = torch.tensor([0.5, 0.5, 0.9, 0.9, 1.2, 1.2, 1.5, 1.5], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64) * 2
HELD = torch.tensor([False, True, False, False, False, False, True, False])


def test_each_case() -> None:
    old = torch.linspace(-3, -1, 8, dtype=torch.float64)
    present = (old + RATIOS.log()).requires_grad_()
    losses = policy_loss(present, old, ADVANTAGES, LOW, HIGH)
    expected = torch.tensor([-1.0, 1.6, -1.8, 1.8, -2.4, 2.4, -2.56, 3.0], dtype=torch.float64)
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    slope = torch.where(HELD, 0.0, -RATIOS * ADVANTAGES)
    torch.testing.assert_close(present.grad, slope)
    assert torch.equal(clipped(present, old, ADVANTAGES, LOW, HIGH), HELD)


def test_the_old_policy_gets_no_gradient_and_at_equality_it_is_reinforce() -> None:
    present = torch.tensor([-1.0, -2.0], requires_grad=True)
    policy_loss(present, present, torch.tensor([3.0, -4.0])).sum().backward()
    torch.testing.assert_close(present.grad, torch.tensor([-3.0, 4.0]))


def test_importance_weights_are_capped_and_constant() -> None:
    old = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    sampled = torch.tensor([-1.0, -3.0, 1.0])
    weights = importance_weights(old, sampled, 2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, torch.e**-2]))
    assert not weights.requires_grad


def test_weighted_samples_of_an_older_policy_give_the_gradient_of_the_present_one() -> None:
    logits, older, advantages = torch.randn(
        3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    logits.requires_grad_()
    (-(logits.softmax(-1) * advantages).sum()).backward()  # the expected advantage, exactly
    truth, logits.grad = logits.grad, None
    present, sampled = logits.log_softmax(-1), older.log_softmax(-1)
    weights = importance_weights(present, sampled, cap=1e9)
    losses = weights * policy_loss(present, present, advantages, LOW, HIGH)
    (sampled.exp() * losses).sum().backward()  # the mean over all that the older policy could sample
    torch.testing.assert_close(logits.grad, truth)


@pytest.mark.parametrize(
    ("weights", "share"), [([1.0] * 5, 1), ([2.0, 0, 0, 0], 1 / 4), ([1.0, 2], 9 / 10), ([0.0], 0)]
)
def test_effective_sample_share(weights: list[float], share: float) -> None:
    given = torch.tensor(weights)
    found = effective_sample_share(given.mean(), given.square().mean())
    torch.testing.assert_close(found, torch.tensor(float(share)))


def test_k3_is_never_negative_and_its_mean_is_the_divergence() -> None:
    policy, reference = torch.randn(2, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    policy, reference = policy.log_softmax(-1), reference.log_softmax(-1)
    estimates = k3(policy, reference)
    assert (estimates >= 0).all()
    divergence = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * estimates).sum(), divergence)
    assert torch.equal(k3(policy, policy), torch.zeros(9, dtype=torch.float64))


def test_k3_gradients() -> None:
    policy = torch.tensor([-1.0, -0.2], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-0.5, -2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: k3(p, reference.detach()), policy)
    k3(policy, reference).sum().backward()
    assert reference.grad is None


def test_the_mean_of_no_tokens_is_zero_with_a_graph() -> None:
    empty = torch.zeros(4, requires_grad=True)
    loss = token_mean(empty[:0])
    loss.backward()
    assert loss == 0
    assert torch.equal(empty.grad, torch.zeros(4))
    assert token_mean(torch.tensor([1.0, 2.0, 6.0])) == 3
