"""Three optimizer steps of every stage give the numbers that they gave when these were written down.

Whether a number is right, the other tests say; this one sees that it changed. `pytest -s` prints what is
found to the last digit.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import fixedbatches
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tinymodel import QWEN, tiny_backbone
from torch.nn.utils import get_total_norm

from katlit.advantages import GRPO, AdvantageEstimator, HiPO, Process
from katlit.losses.aggregation import Aggregation
from katlit.modules import ColdStartSFT, DistillMTP, StepSRPO
from katlit.stage.optimization import Optimization

PARTS = len(fixedbatches.MICRO_BATCHES)  # of an optimizer step
# Fast enough that a step shows in the next one's loss, at a rate that is another in each step.
OPTIMIZATION = Optimization(learning_rate=1e-3, weight_decay=0.1, warmup_steps=1, schedule="cosine")


class Golden(NamedTuple):
    """What a run comes to; one value a step, and the advantages of the first step's rollouts."""

    losses: list[float]
    norms: list[float]
    advantages: list[list[float]]  # [judge, answer] each


class Record(Callback):
    """Keeps each step's loss and gradient norm, and the advantages of the first."""

    def __init__(self) -> None:
        self.found = Golden([], [], [])

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        self.found.norms.append(float(get_total_norm(gradients)))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if "advantages" in batch and batch_idx < PARTS:
            self.found.advantages.extend(batch["advantages"].tolist())
        if (batch_idx + 1) % PARTS == 0:
            self.found.losses.append(float(trainer.callback_metrics["train/loss"]))


def check(stage: LightningModule, name: str, golden: Golden) -> None:
    """Train three steps of four micro-batches each, and compare."""
    torch.manual_seed(0)
    record = Record()
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=3, accumulate_grad_batches=PARTS, limit_val_batches=0,
        callbacks=[record], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(stage, datamodule=fixedbatches.FixedBatches(name))
    found = record.found
    lines = [f"{field}={value!r}\n" for field, value in found._asdict().items()]
    sys.stdout.write("".join(["\n", f"{name}\n", *lines]))
    # Kernels of another CPU differ in the last bits of float32. The terms of stage 3 have both signs, so its
    # losses are small beside their rounding.
    assert found.losses == pytest.approx(golden.losses, rel=1e-6, abs=1e-6)
    assert found.norms == pytest.approx(golden.norms, rel=5e-6)
    assert len(found.advantages) == len(golden.advantages)
    for ours, truth in zip(found.advantages, golden.advantages, strict=True):
        assert ours == pytest.approx(truth, rel=1e-6)


def test_distill_mtp(tmp_path: Path) -> None:
    # The distance of sorted probabilities has a kink wherever two are equal: a sharp teacher is seldom close.
    teacher = tiny_backbone(tmp_path / "made", QWEN | {"initializer_range": 1.0}, seed=2)
    teacher.materialize()
    teacher.export(tmp_path / "teacher")
    student = tiny_backbone(tmp_path, mtp_depth=1)
    stage = DistillMTP(student, str(tmp_path / "teacher"), OPTIMIZATION, kd="uld", kd_weight=0.7)
    check(
        stage,
        "distill",
        Golden(
            [9.436309814453125, 9.499488830566406, 9.44563102722168],
            [2.5360429286956787, 3.04288387298584, 3.1844983100891113],
            [],
        ),
    )


def test_cold_start_sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = ColdStartSFT(tiny_backbone(tmp_path), OPTIMIZATION, judge_weight=2.0)
    mode, step_batches = stage.backbone.protocol.marker_ids["<think_on>"], fixedbatches.step_batches

    def with_judges(name: str, step: int) -> list[dict[str, Any]]:
        """The first document of each row has a judge segment of four tokens."""
        parts = step_batches(name, step)
        for part in parts:
            part["input_ids"][:, 3] = mode
        return parts

    monkeypatch.setattr(fixedbatches, "step_batches", with_judges)
    check(
        stage,
        "sft",
        Golden(
            [6.062633991241455, 6.133744239807129, 6.258440971374512],
            [2.3151164054870605, 2.5080947875976562, 2.8573076725006104],
            [],
        ),
    )


SRPO = {
    "process": Golden(
        [-0.0020502954721450806, 0.3058570325374603, 0.13662278652191162],
        [1.6163884401321411, 2.1179733276367188, 3.224466323852539],
        [
            [-0.40521764755249023, -1.1123243570327759],
            [0.0, 0.0],
            [0.0, 1.3125026226043701],
            [0.0, 0.0],
            [-1.0932894945144653, -0.09328946471214294],
            [0.0, 0.0],
            [0.0, -0.9562222361564636],
            [0.22439314424991608, -0.7756068706512451],
            [-0.5147119760513306, 0.4852880537509918],
            [2.962643623352051, 1.9626435041427612],
            [0.0, -1.0],
            [0.0, 0.0],
        ],
    ),
    "hipo": Golden(
        [-0.10737144947052002, 0.04072800278663635, -0.00929928570985794],
        [1.4245296716690063, 1.3959132432937622, 1.2513232231140137],
        [
            [-0.4560731053352356, -1.0],
            [0.0, 0.0],
            [0.0, 1.0],
            [0.0, 0.0],
            [-0.23471927642822266, 0.16002927720546722],
            [0.0, 0.0],
            [0.0, -1.2968930006027222],
            [-0.19972887635231018, -0.767042875289917],
            [0.05456947162747383, 1.1368637084960938],
            [1.1693962812423706, 1.4124693870544434],
            [3.735095977783203, 0.0],
            [0.0, 0.0],
        ],
    ),
    "grpo": Golden(
        [0.01944093033671379, 0.2692992091178894, 0.13714778423309326],
        [1.6209441423416138, 2.0135250091552734, 3.309021234512329],
        [
            [-1.1123243570327759, -1.1123243570327759],
            [0.0, 0.0],
            [0.0, 1.3125026226043701],
            [0.0, 0.0],
            [-0.09328946471214294, -0.09328946471214294],
            [0.0, 0.0],
            [0.0, -0.9562222361564636],
            [-0.7756068706512451, -0.7756068706512451],
            [0.4852880537509918, 0.4852880537509918],
            [1.9626435041427612, 1.9626435041427612],
            [-1.0, -1.0],
            [0.0, 0.0],
        ],
    ),
}


ESTIMATORS: dict[str, type[AdvantageEstimator]] = {"process": Process, "hipo": HiPO, "grpo": GRPO}


@pytest.mark.parametrize("estimator", SRPO)
def test_step_srpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: Any) -> None:
    # With seed 0 a gradient is so small that its rounding decides where Adam moves the weight.
    policy = tiny_backbone(tmp_path, seed=1)
    stage = StepSRPO(
        policy,
        OPTIMIZATION,
        ESTIMATORS[estimator](),
        aggregation=Aggregation(judge_weight=0.7),
        kl_weight=0.1,
    )
    step_batches = fixedbatches.step_batches

    def with_old(name: str, step: int) -> list[dict[str, Any]]:
        """From the second step on the old policy is another than the present one: the clip acts."""
        parts = step_batches(name, step)
        for part in parts if step > 0 else []:
            part["old_log_probs"] = part["rollout_log_probs"] - 0.5
        return parts

    monkeypatch.setattr(fixedbatches, "step_batches", with_old)
    check(stage, "srpo", SRPO[estimator])
