"""Callbacks that act once an optimizer step, of however many batches it is made."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override


class StepCallback(Callback):
    """Calls `on_step_end` after each optimizer step; Lightning has hooks for batches only.

    A subclass with an `on_train_start` or an `on_train_batch_end` of its own calls these.
    """

    _last_step = 0

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """What is done after an optimizer step.

        Args:
            trainer: Whose `global_step` counts the step already.
            pl_module: Its module.
            batch: The last batch of the step.
        """
        raise NotImplementedError

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._last_step:
            self._last_step = trainer.global_step
            self.on_step_end(trainer, pl_module, batch)
