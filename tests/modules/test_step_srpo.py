"""Stage 3: the gradient against a loop over single tokens, and who carries a loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import QWEN, fit, packed, tiny_backbone
from torch import Tensor

from katlit.advantages import GRPO, AdvantageEstimator, HiPO, Process
from katlit.modules import StepSRPO
from katlit.stage.optimization import Optimization

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
LENGTHS = [[7, 9, 6], [8, 8], [10, 5]]
PROMPT, JUDGE = 2, 2  # tokens
ESTIMATORS = [Process, HiPO, GRPO]


def stage_of(directory: Path, **settings: Any) -> StepSRPO:
    stage = StepSRPO(tiny_backbone(directory), Optimization(learning_rate=3e-3), **settings)
    stage.configure_model()
    return stage


def batch_of(stage: StepSRPO) -> dict[str, Any]:
    """Seven rollouts of two prompts, as the callback leaves them; the sampler is a little off."""
    batch = packed(LENGTHS)
    positions = batch["position_ids"]
    real = torch.arange(positions.shape[1]) < torch.tensor([[sum(row)] for row in LENGTHS])
    starts = ((positions == 0) & real).long()
    rollouts = (starts.flatten().cumsum(0).reshape(starts.shape) - 1).where(real, -1)
    sampled = real & (positions >= PROMPT)
    with torch.no_grad():
        log_probs = all_log_probs(stage, batch)
    return batch | {
        "prompts": [],
        "loss_mask": sampled,
        "rollout_ids": rollouts,
        "judge_mask": sampled & (positions < PROMPT + JUDGE),
        "rollout_log_probs": (log_probs + 0.6 * torch.randn(log_probs.shape)).where(sampled, 0),
        "group_ids": torch.tensor([0, 0, 0, 0, 1, 1, 1]),
        "modes": torch.tensor([1, 0, 1, 0, 1, 0, -1]),
        "rewards": torch.tensor([1.2, 0.2, 0.2, 1.2, 1.2, 0.2, 0.0]),
        "correct": torch.tensor([True, False, False, True, True, False, False]),
        "truncated": torch.tensor([False, False, False, False, False, False, True]),
        "forced": torch.tensor([True, False, False, False, False, True, False]),
        "tokens": torch.tensor([length - PROMPT for row in LENGTHS for length in row]),
    }


def all_log_probs(stage: StepSRPO, batch: dict[str, Any], temperature: float = 1.0) -> Tensor:
    """Log-probability of each token [B, L], from plain logits; 0 in the first column."""
    logits = stage.backbone.logits(stage.backbone(batch["input_ids"], batch["position_ids"]).main)
    all_tokens = (logits[:, :-1] / temperature).log_softmax(dim=-1)
    chosen = all_tokens.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return torch.cat([torch.zeros(len(chosen), 1), chosen], dim=1)


def quiet(stage: StepSRPO) -> dict[str, Tensor]:
    logged: dict[str, Tensor] = {}
    stage.log_training = logged.update
    return logged


def by_hand(stage: StepSRPO, batch: dict[str, Any], advantages: Tensor, old: Tensor | None) -> Tensor:
    """One token after the other, with the clip written as cases."""
    log_probs = all_log_probs(stage, batch, stage.temperature)
    losses = []
    for row, column in batch["loss_mask"].nonzero().tolist():
        rollout = batch["rollout_ids"][row, column]
        judge = batch["judge_mask"][row, column]
        if batch["truncated"][rollout] or (judge and batch["forced"][rollout]):
            continue
        advantage = advantages[rollout, 0 if judge else 1]
        present = log_probs[row, column]
        before = present.detach() if old is None else old[row, column]
        ratio = (present - before).exp()
        if advantage > 0 and ratio > 1 + stage.clip_high:
            ratio = torch.tensor(1 + stage.clip_high)
        if advantage < 0 and ratio < 1 - stage.clip_low:
            ratio = torch.tensor(1 - stage.clip_low)
        mismatch = (before - batch["rollout_log_probs"][row, column]).exp().clamp(max=stage.importance_cap)
        losses.append(-mismatch * ratio * advantage)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_gradient_is_that_of_a_loop_over_tokens(
    tmp_path: Path, estimator: type[AdvantageEstimator], recorded: bool
) -> None:
    stage = stage_of(tmp_path, estimator=estimator(), temperature=0.8, importance_cap=1.5)
    logged, batch = quiet(stage), batch_of(stage)
    old = None
    if recorded:  # an older policy: some ratios lie outside of the clip
        old = all_log_probs(stage, batch, 0.8).detach() + 0.4 * torch.randn(batch["input_ids"].shape)
        batch["old_log_probs"] = old
    loss = stage.training_step(batch, 0)
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in stage.parameters()]
    assert batch["advantages"].shape == (7, 2)
    assert batch["advantages"].abs().sum() > 1
    stage.zero_grad()
    truth = by_hand(stage, batch, batch["advantages"], old)
    truth.backward()
    torch.testing.assert_close(loss, truth)
    for ours, parameter in zip(gradients, stage.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, atol=1e-6, rtol=1e-4)
    assert (logged["clip_share"] > 0) == recorded
    assert 0 < stage.summarize_training(dict(logged))["effective_sample_share"] <= 1
    torch.testing.assert_close(logged["reward_on"], torch.tensor(2.6 / 3))
    torch.testing.assert_close(logged["reward_off"], torch.tensor(1.6 / 3))


def test_a_probe_is_compared_and_not_trained(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, temperature=0.8)
    logged, batch = quiet(stage), batch_of(stage)
    # the third rollout of the first row is taken for a probe, of weights that the sampler had exactly
    probed = batch["loss_mask"] & (batch["rollout_ids"] == 2)
    batch["loss_mask"] &= ~probed
    batch["judge_mask"] &= ~probed
    batch["rollout_ids"][batch["rollout_ids"] == 2] = -1
    exact = all_log_probs(stage, batch, 0.8).detach()
    batch["rollout_log_probs"] = (exact + 0.25).where(probed, batch["rollout_log_probs"])
    without = dict(batch)
    loss = stage.training_step(batch | {"probe_mask": probed}, 0)
    torch.testing.assert_close(loss, stage.training_step(without, 0))
    compared = batch | {"probe_mask": probed}
    stage.training_step(compared, 0)
    torch.testing.assert_close(compared["logprob_gap"], torch.tensor(0.25), atol=1e-5, rtol=0)
    assert without["logprob_gap"] > 0.3  # of the trained tokens
    compared["probe_mask"] = torch.zeros_like(probed)
    stage.training_step(compared, 0)
    assert compared["logprob_gap"] == 0
    # in a later update on the same rollouts the present weights are not those that sampled the probe
    compared |= {"probe_mask": probed, "old_log_probs": batch["rollout_log_probs"]}
    stage.training_step(compared, 0)
    assert compared["logprob_gap"] == 0
    assert all(value.isfinite() for value in logged.values())


def test_nothing_to_learn_gives_zero_and_finite_gradients(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    logged, batch = quiet(stage), batch_of(stage)
    batch["truncated"] = torch.ones(7, dtype=torch.bool)
    loss = stage.training_step(batch, 0)
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in stage.parameters())
    assert all(value.isfinite() for value in logged.values())


def test_the_reference_is_kept_only_where_it_is_needed(tmp_path: Path) -> None:
    assert stage_of(tmp_path)._reference is None
    stage = stage_of(tmp_path, kl_weight=0.5)
    logged, batch = quiet(stage), batch_of(stage)
    assert not any("reference" in name for name in stage.state_dict())
    without = stage_of(tmp_path)
    quiet(without)
    torch.testing.assert_close(stage.training_step(batch, 0), without.training_step(batch, 0))
    with torch.no_grad():
        for one, other in zip(stage.parameters(), without.parameters(), strict=True):
            one += 0.05
            other.copy_(one)
    trained = batch["loss_mask"] & ~batch["truncated"][batch["rollout_ids"]]
    trained &= ~(batch["forced"][batch["rollout_ids"]] & batch["judge_mask"])
    present = all_log_probs(stage, batch)[trained]
    stage.backbone.causal_lm, model = stage._reference.model, stage.backbone.causal_lm
    gap = all_log_probs(stage, batch)[trained] - present
    stage.backbone.causal_lm = model
    divergence = stage.training_step(batch, 0) - without.training_step(batch, 0)
    assert divergence > 0
    torch.testing.assert_close(divergence, 0.5 * (gap.exp() - 1 - gap).mean(), atol=1e-5, rtol=1e-3)
    assert logged["entropy"] > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_it_makes_rewarded_answers_likelier(tmp_path: Path, estimator: type[AdvantageEstimator]) -> None:
    stage = stage_of(tmp_path, estimator=estimator())
    batch = batch_of(stage)
    before = all_log_probs(stage, batch).detach()
    fit(stage, [batch], max_steps=20, limit_val_batches=0)
    after = all_log_probs(stage, batch).detach()
    answer = batch["loss_mask"] & ~batch["judge_mask"]
    for rollout, sign in ((3, 1), (1, -1)):  # in the first group, the only trained one of its mode's kind
        tokens = answer & (batch["rollout_ids"] == rollout)
        assert sign * (after - before)[tokens].mean() > 0


def test_a_policy_has_no_dropout(tmp_path: Path) -> None:
    stage = StepSRPO(tiny_backbone(tmp_path, QWEN | {"attention_dropout": 0.5}))
    stage.configure_model()
    batch = batch_of(stage.train())
    assert torch.equal(all_log_probs(stage, batch), all_log_probs(stage, batch))
