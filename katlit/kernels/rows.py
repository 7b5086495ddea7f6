"""What the operations share: which implementation to take, and blocks of rows that stay in the caches.

Shapes: R rows, V vocabulary.
"""

import importlib.util
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

Impl = Literal["auto", "triton", "torch"]

# A plain sweep passes over a block several times: on a CPU it should find it in the cache again.
CPU_BLOCK_BYTES = 2**21
BLOCK_BYTES = 2**26


def takes_kernel(impl: Impl, logits: Tensor) -> bool:
    """Whether to run the Triton kernel: `auto` does on CUDA where triton is installed, but not in float64."""
    if impl == "auto":
        narrow = logits.dtype != torch.float64
        return logits.is_cuda and narrow and importlib.util.find_spec("triton") is not None
    return impl == "triton"


def wide_dtype(logits: Tensor) -> torch.dtype:
    """What is computed in: float32, or float64 where the logits are."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def blocks(logits: Tensor) -> Iterator[slice]:
    """Slices of the rows of [..., R, V]."""
    rows, vocabulary = logits.shape[-2:]
    size = max(1, (BLOCK_BYTES if logits.is_cuda else CPU_BLOCK_BYTES) // (4 * vocabulary))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def room(logits: Tensor, number: int) -> list[Tensor]:
    """Buffers for one block of rows [R, V] in the wide type, the same for all blocks."""
    first = next(blocks(logits), slice(0, 0))
    shape = (number, first.stop - first.start, logits.shape[-1])
    return list(logits.new_empty(shape, dtype=wide_dtype(logits)))


def shift(logits: Tensor, temperature: float, out: Tensor) -> Tensor:  # -> [R, 1]
    """Write `z - max z` to `out` and return the maxima, for z = logits / temperature.

    Kept apart from the logarithm of the sum, they leave log-probabilities exact where logits are thousands.
    """
    scale(logits, temperature, out)
    top = out.amax(dim=-1, keepdim=True)
    out.sub_(top)
    return top


def scale(logits: Tensor, temperature: float, out: Tensor) -> None:
    """Write logits / temperature to `out`, computed in its type."""
    out.copy_(logits)
    if temperature != 1:
        out.div_(temperature)
