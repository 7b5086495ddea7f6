"""Triton kernels of `katlit.kernels.log_prob`: one sweep over each row forward, one backward.

Sums run along with the largest logit so far and are rescaled when it grows. What lies beyond the vocabulary
is padded with a finite number, since -∞ - (-∞) is NaN; offsets are 64 bits wide, since R · V passes 2³¹.

Shapes: R rows, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_PADDING = tl.constexpr(-1e30)


@triton.jit
def _forward(
    logits, row_stride, targets, temperature, out, rows, vocabulary,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start_of_row = logits + row * row_stride
    top = tl.full((), _PADDING, tl.float32)
    total = tl.full((), 0.0, tl.float32)
    weighted = tl.full((), 0.0, tl.float32)  # Σ e^(z - top) · (z - top)
    for start in range(0, vocabulary, BLOCK):
        where = start + tl.arange(0, BLOCK)
        z = (
            tl.load(start_of_row + where, mask=where < vocabulary, other=_PADDING).to(tl.float32)
            / temperature
        )
        new_top = tl.maximum(top, tl.max(z, axis=0))
        shrink = tl.exp(top - new_top)
        e = tl.exp(z - new_top)
        weighted = (weighted + total * (top - new_top)) * shrink + tl.sum(e * (z - new_top), axis=0)
        total = total * shrink + tl.sum(e, axis=0)
        top = new_top
    chosen = tl.load(start_of_row + tl.load(targets + row)).to(tl.float32) / temperature
    log_total = tl.log(total)
    tl.store(out + row, chosen - top - log_total)
    tl.store(out + rows + row, log_total - weighted / total)
    tl.store(out + 2 * rows + row, top)
    tl.store(out + 3 * rows + row, log_total)


@triton.jit
def _backward(
    logits, row_stride, targets, tops, log_totals, upstream, temperature,
    out, out_stride, vocabulary, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    where = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = where < vocabulary
    z = tl.load(logits + row * row_stride + where, mask=inside, other=_PADDING).to(tl.float32) / temperature
    p = tl.exp(z - tl.load(tops + row) - tl.load(log_totals + row))
    factor = tl.load(upstream + row) / temperature
    hit = (where == tl.load(targets + row)).to(tl.float32)
    gradient = factor * (hit - p)
    tl.store(out + row * out_stride + where, gradient.to(out.dtype.element_ty), mask=inside)


def forward(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Log-probability, entropy, largest logit and log total of each row, [4, R] float32."""
    rows, vocabulary = logits.shape
    out = logits.new_empty((4, rows), dtype=torch.float32)
    if rows:
        block = min(_BLOCK, triton.next_power_of_2(vocabulary))
        arguments = logits, logits.stride(0), targets, float(temperature), out, rows, vocabulary
        _forward[(rows,)](*arguments, BLOCK=block, num_warps=8)
    return out


def backward(
    logits: Tensor,
    targets: Tensor,
    top: Tensor,
    log_total: Tensor,
    upstream: Tensor,
    out: Tensor,
    temperature: float,
) -> None:
    """Write the gradient by the logits to `out` [R, V], which may be `logits`."""
    rows, vocabulary = logits.shape
    if rows:
        block = min(_BLOCK, triton.next_power_of_2(vocabulary))
        known = targets, top, log_total, upstream.float().contiguous()
        _backward[(rows, triton.cdiv(vocabulary, block))](
            logits, logits.stride(0), *known, float(temperature), out, out.stride(0), vocabulary,
            BLOCK=block, num_warps=8,
        )  # fmt: skip
