"""Whole tensors from weights that a strategy has split over the ranks."""

from collections.abc import Iterable, Iterator

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

BUCKET_BYTES = 2**28  # of whole weights at a time; our choice


def whole_tensors(
    named: Iterable[tuple[str, Tensor]], bucket_bytes: int = BUCKET_BYTES
) -> Iterator[tuple[str, Tensor]]:
    """Detached whole tensors, in order; peak extra memory is one bucket, or one tensor where that is larger.

    A collective where the weights are split (FSDP2, tensor parallelism, ZeRO-3): every rank must exhaust it.

    Args:
        named: Names and parameters (not detached copies: ZeRO-3 knows its shards by the parameter).
        bucket_bytes: Bytes that are gathered at once.
    """
    bucket: list[tuple[str, Tensor]] = []
    size = 0
    for name, weight in named:
        if bucket and size + _whole_bytes(weight) > bucket_bytes:
            yield from _gathered(bucket)
            bucket, size = [], 0
        bucket.append((name, weight))
        size += _whole_bytes(weight)
    yield from _gathered(bucket)


def _is_zero_3(weight: Tensor) -> bool:
    return hasattr(weight, "ds_id")


def _whole_bytes(weight: Tensor) -> int:
    number = weight.ds_numel if _is_zero_3(weight) else weight.numel()  # type: ignore[attr-defined]
    return number * weight.element_size()


def _gathered(bucket: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    split = [weight for _, weight in bucket if _is_zero_3(weight)]
    if not split:
        return [(name, _whole(weight)) for name, weight in bucket]
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters(split):
        # Clones: the gathered weights are freed at the end of the block.
        return [(name, weight.detach().clone()) for name, weight in bucket]


def _whole(weight: Tensor) -> Tensor:
    weight = weight.detach()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def is_rank_zero() -> bool:
    """Whether this process is the one that writes what was gathered."""
    return not dist.is_initialized() or dist.get_rank() == 0
