"""What the optimizer is told at each step: learning rate and gradient."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from katlit.callbacks.step_callback import StepCallback
from katlit.parallel.collectives import add_over_ranks
from katlit.parallel.local_parts import norm_of_gradients, share_of_squares


class OptimizerLog(StepCallback):
    """Logs `train/learning_rate` and `train/gradient_norm`, that of all weights together before clipping.

    Added to every run by the command line. Nothing waits for the device.
    """

    def __init__(self) -> None:
        self._rate = 0.0
        self._squares = torch.zeros(())  # this rank's share

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._rate = float(optimizer.param_groups[0]["lr"])
        gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        self._squares = share_of_squares(gradients, pl_module.device)

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        rows = {"on_step": True, "on_epoch": False, "batch_size": 1}
        norm = norm_of_gradients(trainer) or add_over_ranks(self._squares).sqrt()
        pl_module.log("train/learning_rate", self._rate, **rows)
        pl_module.log("train/gradient_norm", norm, **rows)
