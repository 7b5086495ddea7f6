"""The base of the stages: what is trained, how fast, and what is logged."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from tinymodel import fit, packed, tiny_backbone
from torch import Tensor
from torch.utils.data import DataLoader

from katlit.errors import UserError
from katlit.stage.module import KatModule
from katlit.stage.optimization import (
    Optimization,
    build_optimizer,
    build_schedule,
    follow_settings,
    learning_rate_factor,
)


class Stage(KatModule):
    """Plain next-token prediction, written here."""

    def losses(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.backbone(batch["input_ids"], batch["position_ids"]).main
        mask = batch["loss_mask"][:, 1:]
        logits = self.backbone.logits(hidden[:, :-1])[mask]
        return F.cross_entropy(logits, batch["input_ids"][:, 1:][mask], reduction="none")

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.losses(batch).mean()
        self.log_training({"loss": loss})
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.count("ce", self.losses(batch))


def stage(directory: Path, optimization: Optimization | None = None, **settings: Any) -> Stage:
    return Stage(tiny_backbone(directory, **settings), optimization or Optimization(learning_rate=1e-2))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_fit_learns_and_validation_weighs_by_tokens(tmp_path: Path) -> None:
    module = stage(tmp_path)
    assert list(module.parameters()) == []
    batches = [packed([[5, 4], [7]]), packed([[2]])]
    trainer = fit(module, batches, max_steps=20, check_val_every_n_epoch=10)
    with torch.no_grad():
        mean = torch.cat([module.losses(batch) for batch in batches]).mean()
    assert mean < 3.0 < math.log(256)
    torch.testing.assert_close(trainer.callback_metrics["val/ce"], mean)
    torch.testing.assert_close(trainer.callback_metrics["val/perplexity"], mean.exp())
    assert module.training


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_mtp_modules_are_carried_along_frozen(tmp_path: Path) -> None:
    module = stage(tmp_path, mtp_depth=1)
    module.configure_model()
    before = [parameter.clone() for parameter in module.backbone.mtp.parameters()]
    fit(module, [packed([[5], [4]])])
    assert all(map(torch.equal, before, module.backbone.mtp.parameters()))
    assert not any(
        parameter.requires_grad for parameter in module.backbone.mtp.parameters()
    )  # else DDP waits


def test_only_matrices_decay(tmp_path: Path) -> None:
    module = stage(tmp_path)
    module.configure_model()
    decayed, rest = build_optimizer(module, Optimization(weight_decay=0.5)).param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.5, 0.0)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] for p in rest["params"])
    assert not any("norm" in names[id(p)] or "bias" in names[id(p)] for p in decayed["params"])
    assert len(decayed["params"]) + len(rest["params"]) == len(names)


def test_learning_rate() -> None:
    def factors(steps: list[int], **settings: Any) -> list[float]:
        return [learning_rate_factor(step, 12, Optimization(**settings)) for step in steps]

    assert factors([0, 1, 2, 99], warmup_steps=2) == [0.5, 1.0, 1.0, 1.0]
    linear = factors([0, 1, 2, 7, 12, 99], warmup_steps=2, schedule="linear", min_ratio=0.2)
    assert linear == pytest.approx([0.5, 1.0, 1.0, 0.6, 0.2, 0.2])
    cosine = factors([2, 7, 12], warmup_steps=2, schedule="cosine", min_ratio=0.0)
    assert cosine == pytest.approx([1.0, 0.5, 0.0])


def test_a_schedule_without_an_end_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(UserError, match="'cosine' needs an end; set trainer"):
        build_schedule(optimizer, math.inf, Optimization(schedule="cosine"))
    build_schedule(optimizer, math.inf, Optimization())


def test_a_step_that_would_end_within_its_micro_batches_is_refused(tmp_path: Path) -> None:
    stage = Stage(tiny_backbone(tmp_path))
    with pytest.raises(UserError, match="accumulate_grad_batches: 2, but an epoch has 3 batches"):
        fit(stage, [packed([[5]])] * 4, accumulate_grad_batches=2, limit_train_batches=3)


@pytest.mark.filterwarnings("ignore:.*the hooks will not be called on every batch")
def test_an_accumulation_that_changes_is_refused(tmp_path: Path) -> None:
    stage = Stage(tiny_backbone(tmp_path))
    with pytest.raises(UserError, match=r"use trainer\.accumulate_grad_batches"):
        fit(stage, [packed([[5]])] * 4, callbacks=[GradientAccumulationScheduler({0: 1, 1: 2})])


def test_a_run_measured_in_epochs_is_not_resumed_at_another_place(tmp_path: Path) -> None:
    stage, loader = Stage(tiny_backbone(tmp_path)), DataLoader([packed([[5]])] * 4, batch_size=None)
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    fit(stage, [packed([[5]])] * 4, max_steps=2).save_checkpoint(tmp_path / "two.ckpt")
    trainer = Trainer(accelerator="cpu", max_epochs=2, enable_checkpointing=False, **settings)
    with pytest.raises(UserError, match=r"trainer\.max_steps: -1"):
        trainer.fit(Stage(tiny_backbone(tmp_path)), loader, ckpt_path=tmp_path / "two.ckpt")


def test_weights_of_another_model_are_refused_in_one_line(tmp_path: Path) -> None:
    stage = Stage(tiny_backbone(tmp_path))
    stage.configure_model()
    saved = stage.state_dict()
    (first, weight), number = next(iter(saved.items())), len(saved)
    wide = torch.zeros(*weight.shape[:-1], 7)
    others = {
        rf"{first} is \[.*, 7\] there and \[.*{weight.shape[-1]}\] here \(1 tensors": saved | {first: wide},
        rf"lacks {first} \(1 of {number} tensors": {n: w for n, w in saved.items() if n != first},
        rf"has no more \(1 of its {number + 1} tensors": saved | {"more": wide},
    }
    for told, other in others.items():
        with pytest.raises(UserError, match=told):
            stage.load_state_dict(other)
    stage.load_state_dict(saved)


def test_a_restored_optimizer_follows_the_settings() -> None:
    def made(settings: Optimization) -> Any:
        optimizer = build_optimizer(torch.nn.Linear(2, 2), settings)
        return optimizer, build_schedule(optimizer, 10, settings)

    old = Optimization(learning_rate=0.1, weight_decay=0.5, schedule="linear")
    optimizer, schedule = made(old)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    new = Optimization(learning_rate=0.2, beta2=0.9, schedule="linear")
    resumed, its_schedule = made(new)
    resumed.load_state_dict(optimizer.state_dict())
    its_schedule.load_state_dict(schedule.state_dict())
    assert follow_settings(its_schedule, old) == {}
    assert follow_settings(its_schedule, new) == {
        "learning_rate": (0.1, 0.2),
        "weight_decay": (0.5, 0.0),
        "beta2": (0.95, 0.9),
    }
    assert [group["lr"] for group in resumed.param_groups] == [0.2 * learning_rate_factor(3, 10, new)] * 2
    assert [group["weight_decay"] for group in resumed.param_groups] == [0.0, 0.0]
    its_schedule.step()
    assert resumed.param_groups[1]["lr"] == 0.2 * learning_rate_factor(4, 10, new)
    assert follow_settings(its_schedule, new) == {}
