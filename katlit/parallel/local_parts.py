"""What one rank has of weights and gradients that a strategy has split."""

import math
from collections.abc import Iterable

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch import distributed as dist
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


def share_of_squares(gradients: Iterable[Tensor], device: torch.device) -> Tensor:
    """This rank's share of the square of the norm of all gradients, [] float32; the ranks' add up to it.

    A part that several ranks have counts on each of them for as much less. Nothing waits for the device.

    Args:
        gradients: Whole ones, the same on all ranks, or split ones.
        device: Device of the result.
    """
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    shares = [
        (part, _parts(gradient) / ranks) for gradient in gradients if (part := local_part(gradient)).numel()
    ]
    if not shares:
        return torch.zeros((), device=device)
    parts, weights = zip(*shares, strict=True)
    norms = torch._foreach_norm(parts, 2, dtype=torch.float32)  # noqa: SLF001 (as clipping does)
    return (torch.stack(norms).square() * torch.tensor(weights, device=device)).sum()


def _parts(gradient: Tensor) -> int:
    """Into how many parts a gradient is split."""
    if not isinstance(gradient, DTensor):
        return 1
    mesh = gradient.device_mesh
    return math.prod(mesh.size(axis) for axis, how in enumerate(gradient.placements) if how.is_shard())


def all_finite(weights: Iterable[Tensor]) -> bool:
    """Whether this rank's parts of all weights are finite; waits for the device."""
    parts = [part for part in map(local_part, weights) if part.numel()]
    sizes = torch._foreach_norm(parts, math.inf)  # noqa: SLF001 (as clipping does)
    return all(math.isfinite(float(size)) for size in sizes)
