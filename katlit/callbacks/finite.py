"""Stops a run at the first number that is not finite, before it is saved."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from katlit.callbacks.checkpoint import newest_checkpoint
from katlit.callbacks.step_callback import StepCallback
from katlit.errors import NonFiniteError
from katlit.parallel.collectives import gathered, largest_over_ranks
from katlit.parallel.local_parts import local_part, norm_of_gradients


class _Sizes(NamedTuple):
    """How large this rank's parts of some tensors are, [tensors], and of all together, []."""

    names: Sequence[tuple[int, str]]  # each with its place among all
    each: Tensor
    total: Tensor

    def first(self) -> tuple[int, str] | None:
        """The first of this rank that is not finite."""
        wrong = (~self.each.isfinite()).nonzero().flatten().tolist()
        return min((self.names[index] for index in wrong), default=None)


class StopWhereNotFinite(StepCallback):
    """Ends the run, on all ranks alike, at the first step whose loss, gradient or weight is not finite.

    Added to every run by the command line. Loss and gradients are measured as they come and weights after the
    update, by numbers that stay on the device; once a step, three flags are reduced over the ranks and read.
    `StepCheckpoint` acts later, so no checkpoint and no export has such a weight.
    """

    def __init__(self) -> None:
        self._loss = torch.zeros(())  # sum over the step's micro-batches
        self._gradients: _Sizes | None = None

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._loss = self._loss.to(loss.device) + loss.detach().float()

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is None:  # which leaves out such steps itself
            self._gradients = _sizes(_trained(pl_module, gradients=True), order=2)

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        gradients, weights = self._gradients, _sizes(_trained(pl_module), order=math.inf)
        loss, self._loss, self._gradients = self._loss, torch.zeros_like(self._loss), None
        # DeepSpeed may keep weights in host memory while the loss is on a GPU.
        norms = [torch.zeros(()) if each is None else each.total for each in (gradients, weights)]
        totals = torch.stack([loss, *(norm.to(loss.device) for norm in norms)])
        wrong = largest_over_ranks((~totals.isfinite()).float()).tolist()
        wrong[1] = wrong[1] or not math.isfinite(norm_of_gradients(trainer))
        if wrong[0]:
            values = [value for value in gathered(float(loss)) if not math.isfinite(value)]
            _stop(trainer, f"the loss is {values[0]}")
        kinds = (("gradient", wrong[1], gradients), ("weight", wrong[2], weights))
        for kind, _, sizes in (each for each in kinds if each[1]):
            found = [first for first in gathered(None if sizes is None else sizes.first()) if first]
            name = min(found)[1] if found else "all weights together"
            _stop(trainer, f"the {kind} of {name} is not finite")


def _stop(trainer: Trainer, found: str) -> None:
    newest = newest_checkpoint(trainer, required=False)
    raise NonFiniteError(
        f"{found} in optimizer step {trainer.global_step}; nothing of this step is saved, the newest "
        f"checkpoint is {newest or 'none'}. Lower the learning rate (model.init_args.optimization."
        "learning_rate) or trainer.gradient_clip_val"
    )


def _trained(module: LightningModule, *, gradients: bool = False) -> list[tuple[str, Tensor]]:
    """The weights that are trained, or their gradients, as far as this rank has them."""
    weights = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    if gradients:
        return [(name, local_part(weight.grad)) for name, weight in weights if weight.grad is not None]
    return [(name, local_part(weight)) for name, weight in weights]


def _sizes(named: Iterable[tuple[str, Tensor]], order: float) -> _Sizes | None:
    parts = {(place, name): part for place, (name, part) in enumerate(named) if part.numel()}
    if not parts:
        return None
    norms = torch._foreach_norm(list(parts.values()), order)  # noqa: SLF001 (as clipping does)
    each = torch.stack([norm.float() for norm in norms])
    return _Sizes(list(parts), each, torch.linalg.vector_norm(each, order))
