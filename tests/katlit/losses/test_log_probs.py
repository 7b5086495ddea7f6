"""Chunked log-probabilities against plain ones."""

import pytest
import torch
from torch import Tensor

from katlit.losses import log_probs as module
from katlit.losses.log_probs import selected_log_probs
from katlit.losses.reduce import token_mean


def case(tokens: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(7, (tokens,), generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("chunk", [1, 4, 11, 1024])
def test_values_and_gradients(monkeypatch: pytest.MonkeyPatch, chunk: int, temperature: float) -> None:
    monkeypatch.setattr(module, "CHUNK_TOKENS", chunk)
    hidden, weight, targets = case()
    log_probs, entropy = selected_log_probs(hidden, weight, targets, temperature)
    truth = torch.distributions.Categorical(logits=hidden @ weight.T / temperature)
    torch.testing.assert_close(log_probs, truth.log_prob(targets))
    torch.testing.assert_close(entropy, truth.entropy().detach())
    assert not entropy.requires_grad
    ours = torch.autograd.grad(log_probs.square().sum(), [hidden, weight])
    plain = torch.autograd.grad(truth.log_prob(targets).square().sum(), [hidden, weight])
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_finite_differences() -> None:
    hidden, weight, targets = case(3)
    assert torch.autograd.gradcheck(lambda h, w: selected_log_probs(h, w, targets, 1.3)[0], (hidden, weight))


def test_low_precision_is_computed_in_float32() -> None:
    hidden, weight, targets = case()
    low = hidden.bfloat16(), weight.bfloat16()
    assert selected_log_probs(*low, targets)[0].dtype == torch.float32


def test_no_targets_give_a_mean_of_zero_and_finite_gradients() -> None:
    hidden, weight, targets = case()
    log_probs, entropy = selected_log_probs(hidden[:0], weight, targets[:0])
    assert log_probs.shape == entropy.shape == (0,)
    loss = token_mean(log_probs)
    loss.backward()
    assert loss == 0
    assert torch.equal(weight.grad, torch.zeros_like(weight))
