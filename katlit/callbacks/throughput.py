"""How fast training goes."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override


class Throughput(Callback):
    """Logs `throughput/tokens_per_second` (of all ranks) and `throughput/step_seconds` for optimizer steps.

    A step's time runs from the end of the step before it, so it contains loading, sampling and the update,
    but not validation. Tokens are those of `input_ids` that are not padding. Counting stays on the device, so
    nothing waits.
    """

    def __init__(self) -> None:
        self._last = 0.0
        self._seconds = 0.0
        self._tokens: Tensor | int = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = time.perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._seconds += now - self._last
        self._last = now
        self._tokens += (batch["input_ids"] != pl_module.backbone.protocol.pad_id).sum()
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        seconds, tokens = self._seconds, self._tokens
        self._seconds, self._tokens = 0.0, 0
        rows = {"on_step": True, "on_epoch": False, "sync_dist": True, "batch_size": 1}
        pl_module.log("throughput/tokens_per_second", tokens / seconds, reduce_fx="sum", **rows)
        pl_module.log("throughput/step_seconds", seconds, reduce_fx="mean", **rows)
