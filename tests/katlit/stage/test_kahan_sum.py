"""Weights in bfloat16 at small learning rates: what rounding takes is kept, and goes through a checkpoint."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from tinymodel import packed, tiny_backbone
from torch import Tensor, nn
from torch import distributed as dist
from torch.utils.data import DataLoader

from katlit.errors import UserError
from katlit.parallel import Fsdp2Strategy, ZeroStrategy
from katlit.parallel.local_parts import local_part
from katlit.stage.module import KatModule
from katlit.stage.optimization import Optimization, build_optimizer, build_schedule, follow_settings

RATE = 1e-6  # of stage 3
KAHAN = Optimization(learning_rate=RATE, kahan_sum=True)


def trained(dtype: torch.dtype, settings: Optimization, steps: int) -> Tensor:
    """How far weights of a language model's size went under noisy gradients."""
    torch.manual_seed(0)
    start = (torch.randn(8, 64) * 0.02).bfloat16()  # the same in either number format
    layer = nn.Linear(64, 8, bias=False).to(dtype)
    layer.weight.data.copy_(start)
    optimizer = build_optimizer(layer, settings)
    slope = torch.where(torch.arange(512).view(8, 64) % 2 == 0, 1.0, -1.0)
    for _ in range(steps):
        layer.weight.grad = (1e-3 * (slope + 0.5 * torch.randn(8, 64))).to(dtype)
        optimizer.step()
    return (layer.weight.detach().float() - start.float()).flatten()


def test_two_thousand_small_updates_end_where_those_of_float32_do() -> None:
    truth = trained(torch.float32, Optimization(learning_rate=RATE), 2000)
    plain = trained(torch.bfloat16, Optimization(learning_rate=RATE), 2000)
    summed = trained(torch.bfloat16, KAHAN, 2000)
    assert (plain - truth).norm() > 0.95 * truth.norm()  # hardly any weight has moved
    assert (summed - truth).norm() < 0.1 * truth.norm()


class Stage(KatModule):
    """The mean square of the logits, written here."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        hidden = self.backbone(batch["input_ids"], batch["position_ids"]).main
        return self.backbone.logits(hidden).float().square().mean()


def run(folder: Path, steps: int, checkpoint: str | None = None, **settings: Any) -> list[Tensor]:
    """The weights, and what they are owed, after so many steps; a checkpoint is `folder/steps`."""
    torch.manual_seed(1)
    stage, batch = Stage(tiny_backbone(folder), KAHAN), packed([[5, 4], [7]])
    trainer = Trainer(
        accelerator="cpu", precision="bf16-true", max_epochs=-1, max_steps=steps, logger=False, devices=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **settings,
    )  # fmt: skip
    loader = DataLoader([batch] * 8, batch_size=None)
    trainer.fit(stage, loader, ckpt_path=None if checkpoint is None else folder / checkpoint)
    if checkpoint is None:
        trainer.save_checkpoint(folder / str(steps))
    owed = [state["kahan_comp"] for state in trainer.optimizers[0].state.values()]
    assert any(one.any() for one in owed)
    return [local_part(one).clone() for one in (*stage.parameters(), *owed)]


@pytest.fixture
def _alone() -> Iterator[None]:
    """What a strategy has made of processes ends with the test."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.usefixtures("_alone")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
@pytest.mark.parametrize("strategy", [lambda: "auto", Fsdp2Strategy], ids=["single", "fsdp2"])
def test_a_run_in_bfloat16_resumes_bit_for_bit(strategy: Callable[[], Any], tmp_path: Path) -> None:
    run(tmp_path, 2, strategy=strategy())
    whole = run(tmp_path, 4, strategy=strategy())
    resumed = run(tmp_path, 4, checkpoint="2", strategy=strategy())
    assert all(map(torch.equal, resumed, whole))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"weight_decay": 0.1}, "weight_decay: 0.1; give 0 with kahan_sum"),
        ({"beta2": 0.999}, "beta2: 0.999; give 0.99 or less with kahan_sum"),
    ],
)
def test_what_bfloat16_would_round_away_is_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        Optimization(kahan_sum=True, **settings)


def test_weights_in_float32_are_refused() -> None:
    with pytest.raises(UserError, match=r"kahan_sum: true, but weights are trained in float32, .* bf16-true"):
        build_optimizer(nn.Linear(2, 2), KAHAN)


def test_deepspeed_is_refused() -> None:
    layer = nn.Linear(2, 2).bfloat16()
    with pytest.raises(UserError, match="kahan_sum: true, but DeepSpeed keeps float32 weights"):
        ZeroStrategy()._setup_model_and_optimizer(layer, build_optimizer(layer, KAHAN))


def test_a_checkpoint_of_the_other_kind_is_refused() -> None:
    layer = nn.Linear(2, 2).bfloat16()
    schedule = build_schedule(build_optimizer(layer, KAHAN), 10, KAHAN)
    assert follow_settings(schedule, KAHAN) == {}
    changed = Optimization(learning_rate=2 * RATE, beta2=0.9, kahan_sum=True)
    assert follow_settings(schedule, changed) == {"learning_rate": (RATE, 2 * RATE), "beta2": (0.95, 0.9)}
    assert schedule.optimizer.param_groups[0]["beta2"] == 0.9
    with pytest.raises(UserError, match=r"kahan_sum: false, but the checkpoint is of a run with true"):
        follow_settings(schedule, Optimization(learning_rate=RATE))
