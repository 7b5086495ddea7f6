"""Keeps what a run logged at each optimizer step."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor

from katlit.model.frozen import FrozenModel
from katlit.teacher.comparison import LiveTeacher


class Collect(Callback):
    """Appends a line of JSON for each optimizer step.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.state.fn == "validate":
            row = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.path.write_text(json.dumps(row) + "\n")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        if trainer.is_global_zero:
            row = {name: float(value) for name, value in trainer.callback_metrics.items()}
            row |= held(pl_module) | masters(trainer)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": self.step} | row) + "\n")


def held(stage: LightningModule) -> dict[str, float]:
    """Bytes of frozen models that this process holds."""
    live = [teacher for teacher in getattr(stage, "_teachers", []) if isinstance(teacher, LiveTeacher)]
    frozen = [*vars(stage).values(), *(teacher.frozen for teacher in live)]
    found = [value.model for value in frozen if isinstance(value, FrozenModel)]
    parts = [part for model in found for part in model.parameters()]
    own = [part.to_local() if isinstance(part, DTensor) else part for part in parts]
    return {"frozen_bytes": float(sum(part.nbytes for part in own))} if found else {}


def masters(trainer: Trainer) -> dict[str, float]:
    """Bits of the weights that the optimizer moves; DeepSpeed's has copies of its own."""
    optimizer = trainer.optimizers[0]
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    weights = weights or optimizer.fp32_partitioned_groups_flat  # ZeRO-3 empties the groups between steps
    return {"master_bits": max(8.0 * weight.element_size() for weight in weights)}
