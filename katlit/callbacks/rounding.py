"""Warns where the learning rate is too small for the numbers that hold the weights."""

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
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
    gradient, and how many of them move; with `optimization.kahan_sum` also, by what a weight is still owed.
    """

    def __init__(self) -> None:
        self._left = STEPS
        # Of each weight: itself, its elements as they were, which of them have a gradient.
        self._before: list[tuple[nn.Parameter, Tensor, Tensor]] = []
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
                gradient = _some(local_part(weight.grad))
                self._before.append((weight, _elements(weight, optimizer), gradient != 0))

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        if not self._before:
            return
        optimizer = trainer.optimizers[0]
        counts = [
            torch.stack([((_elements(weight, optimizer) != was) & alive).sum(), alive.sum()])
            for weight, was, alive in self._before
        ]
        self._counts = self._counts.to(counts[0].device) + torch.stack(counts).sum(dim=0)
        self._before, self._left = [], self._left - 1
        if self._left == 0:
            moved, number = add_over_ranks(self._counts).tolist()
            if trainer.is_global_zero and moved < ENOUGH * number:
                logger.warning(
                    "the learning rate %.2g is lost to rounding: in %d steps %.1f %% of the bfloat16 weights "
                    "with a gradient moved; use optimization.kahan_sum (backbone/bf16-true.yaml), "
                    "trainer.precision bf16-mixed, whose weights are float32, or a larger learning rate",
                    trainer.optimizers[0].param_groups[0].get("initial_lr", 0.0), STEPS, 100 * moved / number,
                )  # fmt: skip


def _elements(weight: nn.Parameter, optimizer: Optimizer) -> Tensor:
    """Some elements of a weight in float64, with what a Kahan sum still owes them."""
    elements = _some(local_part(weight.detach())).double()
    owed = optimizer.state.get(weight, {}).get("kahan_comp")
    return elements if owed is None else elements + _some(local_part(owed)).double()


def _some(part: Tensor) -> Tensor:
    """Some elements of a tensor, spread over it; a view."""
    flat = part.reshape(-1) if part.is_contiguous() else part
    return flat[:: max(1, flat.shape[0] // SAMPLE)]
