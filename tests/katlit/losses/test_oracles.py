"""Our losses against TRL's, where the settings coincide."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from katlit.losses.aggregation import Aggregation, Segments
from katlit.losses.distill import jsd
from katlit.losses.policy import clipped, importance_weights, k3, policy_loss
from katlit.losses.reduce import token_mean
from katlit.losses.uld import uld

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BATCH, LENGTH, PROMPT = 3, 6, 2


@pytest.fixture(scope="module")
def gold() -> Any:
    from trl.experimental.gold import gold_trainer

    return gold_trainer


def logits(vocabulary: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = 2 * torch.randn(BATCH, LENGTH, vocabulary, generator=generator, dtype=torch.float64)
    return values.requires_grad_()


def assert_same(ours: Tensor, theirs: Tensor, inputs: Tensor) -> None:
    """Value and gradient."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(loss, inputs)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("beta", [0, 0.3, 1])
def test_jensen_shannon(gold: Any, beta: float, temperature: float) -> None:
    student, teacher = logits(11, 1), logits(11, 2).detach()
    labels = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    labels[0, :3] = labels[2, 4:] = -100
    theirs = gold.GOLDTrainer.generalized_jsd_loss(student, teacher, labels, beta, temperature)
    kept = labels != -100
    ours = jsd(student[kept], teacher[kept], beta, temperature)
    assert_same(token_mean(ours.double()), theirs, student)


@pytest.mark.parametrize("vocabularies", [(9, 9), (9, 14), (14, 9)])
def test_universal_logit_distillation(gold: Any, vocabularies: tuple[int, int]) -> None:
    student, teacher = logits(vocabularies[0], 1), logits(vocabularies[1], 2).detach()
    labels = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    labels[:, :PROMPT] = -100
    config = SimpleNamespace(
        uld_crossentropy_weight=0.0, uld_distillation_weight=1.0, uld_student_temperature=0.7,
        uld_teacher_temperature=0.7, uld_skip_student_eos=False, uld_skip_teacher_eos=False,
        use_extended_uld=False, uld_token_merge_strategy="bayesian",
    )  # fmt: skip
    ids = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    theirs = gold.ULDLoss(config)(student, teacher, labels, labels, ids, ids)
    predictors = slice(PROMPT - 1, LENGTH - 1)  # each target's predictor is one to its left
    ours = uld(student[:, predictors].flatten(0, 1), teacher[:, predictors].flatten(0, 1), 0.7)
    assert_same(token_mean(ours), theirs, student)


@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
@pytest.mark.parametrize(
    ("unit", "loss_type"), [("token", "bnpo"), ("sequence", "grpo"), ("constant", "dr_grpo")]
)
@pytest.mark.parametrize("clip", [(0.2, 0.2), (0.1, 0.4)])
def test_the_policy_loss(unit: Any, loss_type: str, kl_weight: float, clip: tuple[float, float]) -> None:
    """Each aggregation, two-sided clipping, truncated importance weights, k3."""
    from trl import GRPOTrainer

    generator = torch.Generator().manual_seed(3)
    present, old, sampled, reference = (
        torch.randn(BATCH, LENGTH, generator=generator, dtype=torch.float64) * 0.4 - 1 for _ in range(4)
    )
    present.requires_grad_()
    advantages = torch.randn(BATCH, generator=generator, dtype=torch.float64)
    mask = torch.rand(BATCH, LENGTH, generator=generator) < 0.7
    weights = importance_weights(old, sampled, 2.0)
    same = SimpleNamespace(
        gather=lambda tensor: tensor, reduce=lambda tensor, reduction: tensor, num_processes=1
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (present, torch.zeros_like(present), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None,
        importance_sampling_level="token", beta=kl_weight, loss_type=loss_type, epsilon_low=clip[0],
        epsilon_high=clip[1], max_completion_length=11, use_vllm=True,
        vllm_importance_sampling_correction=True,
        model=SimpleNamespace(training=True), current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False), _entropy_bonus_enabled=False,
        accelerator=same, _metrics={"train": defaultdict(list)},
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(BATCH, 1), "prompt_mask": torch.ones(BATCH, 1),
        "completion_ids": torch.zeros(BATCH, LENGTH), "completion_mask": mask, "advantages": advantages,
        "old_per_token_logps": old, "ref_per_token_logps": reference, "importance_sampling_ratio": weights,
    }  # fmt: skip
    theirs = GRPOTrainer._compute_loss(trainer, None, inputs)
    spread = advantages[:, None].expand(BATCH, LENGTH)[mask]
    ours = weights[mask] * policy_loss(present[mask], old[mask], spread, *clip)
    ours = ours + kl_weight * k3(present[mask], reference[mask])
    form = Aggregation(unit, length=11)
    owners = torch.arange(BATCH)[:, None].expand(BATCH, LENGTH)
    segments = Segments(torch.zeros_like(mask), owners, BATCH)
    places = mask.flatten().nonzero()[:, 0]
    mean = form.mean(ours, segments.of(places), form.numbers(mask, segments))
    assert clipped(present[mask], old[mask], spread, *clip).any()
    assert_same(mean, theirs, present)
