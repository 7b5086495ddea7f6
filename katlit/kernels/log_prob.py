"""Log-probability of one token a row and entropy of the row, from logits.

With z = logits / temperature: `z_y - log Σ e^z` and `log Σ e^z - Σ p·z`. The gradient of the former by the
logits is `(1[v = y] - p) / temperature`; the entropy has none here.

Shapes: R rows, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from katlit.kernels.rows import Impl, blocks, room, scale, shift, takes_kernel, wide_dtype


class LogProbs(NamedTuple):
    """What a sweep finds of each row, float32, or float64 where the logits are."""

    log_probs: Tensor  # [R]
    entropy: Tensor  # [R], in nats
    top: Tensor  # [R], the largest z
    log_total: Tensor  # [R], log Σ e^(z - top)


def forward(logits: Tensor, targets: Tensor, temperature: float = 1.0, impl: Impl = "auto") -> LogProbs:
    """Sweep over rows of logits.

    Args:
        logits: [R, V].
        targets: [R] int64.
        temperature: Divides the logits.
        impl: `triton`, `torch`, or `auto`: the kernel on CUDA.
    """
    if takes_kernel(impl, logits):
        from katlit.kernels import log_prob_triton

        return LogProbs(*log_prob_triton.forward(logits, targets, temperature))
    found = LogProbs(*logits.new_empty((4, len(logits)), dtype=wide_dtype(logits)))
    shifted, exponentials = room(logits, 2)
    for rows in blocks(logits):
        number = rows.stop - rows.start
        x, e = shifted[:number], exponentials[:number]
        found.top[rows] = shift(logits[rows], temperature, x).squeeze(-1)
        torch.exp(x, out=e)
        total = e.sum(dim=-1)
        found.log_total[rows] = total.log()
        chosen = x.gather(-1, targets[rows].unsqueeze(-1)).squeeze(-1)
        found.log_probs[rows] = chosen - found.log_total[rows]
        found.entropy[rows] = found.log_total[rows] - e.mul_(x).sum(dim=-1) / total
    return found


def backward(
    logits: Tensor,
    targets: Tensor,
    found: LogProbs,
    upstream: Tensor,
    out: Tensor,
    temperature: float = 1.0,
    impl: Impl = "auto",
) -> None:
    """Write the gradient by the logits.

    Args:
        logits: [R, V].
        targets: [R].
        found: By `forward` of the same arguments.
        upstream: [R], gradient by the log-probabilities; a row of 0 gets 0.
        out: [R, V], may be `logits`.
        temperature: Divides the logits.
        impl: As in `forward`.
    """
    if takes_kernel(impl, logits):
        from katlit.kernels import log_prob_triton

        log_prob_triton.backward(logits, targets, found.top, found.log_total, upstream, out, temperature)
        return
    factors = upstream.to(found.top.dtype) / temperature
    (probabilities,) = room(logits, 1)
    for rows in blocks(logits):
        p = probabilities[: rows.stop - rows.start]
        scale(logits[rows], temperature, p)
        p.sub_(found.top[rows].unsqueeze(-1)).exp_()
        p.mul_((-factors[rows] * (-found.log_total[rows]).exp()).unsqueeze(-1))
        p.scatter_add_(-1, targets[rows].unsqueeze(-1), factors[rows].unsqueeze(-1))
        out[rows] = p
