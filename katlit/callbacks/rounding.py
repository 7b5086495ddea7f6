"""Warns where the learning rate is too small for the numbers that hold the weights."""

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from katlit.callbacks.step_callback import StepCallback
from katlit.parallel.collectives import add_over_ranks
from katlit.parallel.local_parts import local_part

logger = logging.getLogger(__name__)

STEPS = 4  # that are measured
SAMPLE = 4096  # elements of each weight, at most
ENOUGH = 0.2  # share of them that should move in a step; our choice


class WarnWhereRounded(StepCallback):
    """Says, once, that the optimizer's updates are lost to rounding.

    Added to every run by the command line; it measures weights that are trained in bfloat16 themselves
    (`trainer.precision: bf16-true`), which have three digits: an update below a 256th of a weight leaves it
    as it is. In the first four steps after the warm-up it looks at some elements of each weight that have a
    gradient, and how many of them move.
    """

    def __init__(self) -> None:
        self._left = STEPS
        self._before: list[tuple[Tensor, Tensor, Tensor]] = []  # the elements, as they were, with gradient?
        self._counts = torch.zeros(2)  # moved, all

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        group = optimizer.param_groups[0]
        if self._left == 0 or group["lr"] < 0.99 * group.get("initial_lr", group["lr"]):
            return
        for weight in pl_module.parameters():
            if weight.grad is not None and weight.dtype == torch.bfloat16:
                elements, gradient = _some(local_part(weight)), _some(local_part(weight.grad))
                self._before.append((elements, elements.clone(), gradient != 0))

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        if not self._before:
            return
        counts = [
            torch.stack([((now != was) & alive).sum(), alive.sum()]) for now, was, alive in self._before
        ]
        self._counts = self._counts.to(counts[0].device) + torch.stack(counts).sum(dim=0)
        self._before, self._left = [], self._left - 1
        if self._left == 0:
            moved, number = add_over_ranks(self._counts).tolist()
            if trainer.is_global_zero and moved < ENOUGH * number:
                logger.warning(
                    "the learning rate %.2g is lost to rounding: in %d steps %.1f %% of the bfloat16 weights "
                    "with a gradient moved; use trainer.precision bf16-mixed, whose weights are float32, or "
                    "a larger learning rate",
                    trainer.optimizers[0].param_groups[0].get("initial_lr", 0.0), STEPS, 100 * moved / number,
                )  # fmt: skip


def _some(part: Tensor) -> Tensor:
    """Some elements of a tensor, spread over it; a view."""
    flat = part.reshape(-1) if part.is_contiguous() else part
    return flat[:: max(1, flat.shape[0] // SAMPLE)]
