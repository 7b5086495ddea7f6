"""What one rank has of weights and gradients that a strategy has split."""

import math
from collections.abc import Iterable

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor


def local_part(weight: Tensor) -> Tensor:
    """The part of a weight, or of its gradient, on this rank, without a copy."""
    weight = getattr(weight, "ds_tensor", weight)  # ZeRO-3's
    return (weight.to_local() if isinstance(weight, DTensor) else weight).detach()


def norm_of_gradients(trainer: Trainer) -> float:
    """The norm of the last step's gradients where the strategy keeps them to itself; else 0.

    DeepSpeed's is known after its update, on every rank; it says -1 where it is not finite.
    """
    norm = getattr(trainer.model, "get_global_grad_norm", lambda: None)()
    if norm is None:
        return 0.0
    return float(norm) if norm >= 0 else float("nan")


def all_finite(weights: Iterable[Tensor]) -> bool:
    """Whether this rank's parts of all weights are finite; waits for the device."""
    parts = [part for part in map(local_part, weights) if part.numel()]
    sizes = torch._foreach_norm(parts, math.inf)  # noqa: SLF001 (as clipping does)
    return all(math.isfinite(float(size)) for size in sizes)
