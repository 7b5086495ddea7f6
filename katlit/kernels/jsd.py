"""Generalised Jensen-Shannon divergence of two rows of logits over one vocabulary.

With the teacher's p, the student's q and `m = β·p + (1-β)·q`: `β·KL(p‖m) + (1-β)·KL(q‖m)`, at the ends
KL(p‖q) (β = 0) and KL(q‖p) (β = 1). The gradient by the student's logits, times the temperature, is
`(1-β)·q·(log q - log m - KL(q‖m))`, at the ends `q - p` and `q·(log q - log p - KL(q‖p))`.

Shapes: G students share a row of the teacher, R rows, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from katlit.kernels.rows import Impl, blocks, room, scale, shift, takes_kernel, wide_dtype


class Divergences(NamedTuple):
    """What a sweep finds, float32, or float64 where the student's logits are."""

    values: Tensor  # [G, R]
    mean: Tensor  # [G, R], of the gradient's logarithms under q: KL(q‖m), at β = 1 KL(q‖p), at β = 0 nothing
    top: Tensor  # [G, R], the student's largest logit / temperature
    log_total: Tensor  # [G, R], log Σ e^(z - top)
    teacher_top: Tensor  # [R]
    teacher_log_total: Tensor  # [R]


def forward(
    student: Tensor, teacher: Tensor, beta: float = 0.5, temperature: float = 1.0, impl: Impl = "auto"
) -> Divergences:
    """Sweep over rows of logits.

    Args:
        student: [G, R, V].
        teacher: [R, V].
        beta: β.
        temperature: Divides the logits of both sides.
        impl: `triton`, `torch`, or `auto`: the kernel on CUDA.
    """
    if takes_kernel(impl, student):
        from katlit.kernels import jsd_triton

        return Divergences(*jsd_triton.forward(student, teacher, beta, temperature))
    dtype = wide_dtype(student)
    of_student = student.new_empty((4, *student.shape[:2]), dtype=dtype)
    found = Divergences(*of_student, *student.new_empty((2, len(teacher)), dtype=dtype))
    buffers = room(student, 6)
    for rows in blocks(teacher):
        log_p, p, log_q, q, mixture, work = (buffer[: rows.stop - rows.start] for buffer in buffers)
        found.teacher_top[rows], found.teacher_log_total[rows] = _softmax(
            teacher[rows], temperature, log_p, p
        )
        for g, logits in enumerate(student[:, rows]):
            found.top[g, rows], found.log_total[g, rows] = _softmax(logits, temperature, log_q, q)
            if beta == 0:
                found.values[g, rows] = _expected(p, torch.sub(log_p, log_q, out=work))
                found.mean[g, rows] = 0
                continue
            _log_ratio(log_p, p, log_q, q, beta, mixture, out=work)
            found.mean[g, rows] = _expected(q, work)
            if beta == 1:
                found.values[g, rows] = found.mean[g, rows]
                continue
            teacher_part = _expected(p, torch.sub(log_p, mixture, out=work))
            found.values[g, rows] = beta * teacher_part + (1 - beta) * found.mean[g, rows]
    return found


def add_gradient(
    student: Tensor,
    teacher: Tensor,
    found: Divergences,
    upstream: Tensor,
    out: Tensor,
    beta: float = 0.5,
    temperature: float = 1.0,
    impl: Impl = "auto",
) -> None:
    """Add the gradient by the student's logits.

    Args:
        student: [G, R, V].
        teacher: [R, V].
        found: By `forward` of the same arguments.
        upstream: [G, R], gradient by the values; a row of 0 adds 0.
        out: [G, R, V], what is added to.
        beta: β.
        temperature: Divides the logits of both sides.
        impl: As in `forward`.
    """
    if takes_kernel(impl, student):
        from katlit.kernels import jsd_triton

        jsd_triton.add_gradient(student, teacher, found[1:], upstream, out, beta, temperature)
        return
    factors = upstream.to(found.top.dtype) * ((1 - beta if beta < 1 else 1) / temperature)
    buffers = room(student, 6)
    for rows in blocks(teacher):
        log_p, p, log_q, q, mixture, work = (buffer[: rows.stop - rows.start] for buffer in buffers)
        _known_softmax(
            teacher[rows], temperature, found.teacher_top[rows], found.teacher_log_total[rows], log_p, p
        )
        for g, logits in enumerate(student[:, rows]):
            _known_softmax(logits, temperature, found.top[g, rows], found.log_total[g, rows], log_q, q)
            if beta == 0:
                torch.sub(q, p, out=work)
            else:
                _log_ratio(log_p, p, log_q, q, beta, mixture, out=work)
                work.sub_(found.mean[g, rows].unsqueeze(-1)).mul_(q)
            out[g, rows] += work.mul_(factors[g, rows].unsqueeze(-1))


def _softmax(logits: Tensor, temperature: float, log_p: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Write log-probabilities and probabilities; top and log total of each row, [R]."""
    top = shift(logits, temperature, log_p)
    torch.exp(log_p, out=p)
    total = p.sum(dim=-1, keepdim=True)
    log_total = total.log()
    log_p.sub_(log_total)
    p.div_(total)
    return top.squeeze(-1), log_total.squeeze(-1)


def _known_softmax(
    logits: Tensor, temperature: float, top: Tensor, log_total: Tensor, log_p: Tensor, p: Tensor
) -> None:
    """Write log-probabilities and probabilities, top and log total being known."""
    scale(logits, temperature, log_p)
    log_p.sub_(top.unsqueeze(-1)).sub_(log_total.unsqueeze(-1))
    torch.exp(log_p, out=p)


def _log_ratio(
    log_p: Tensor, p: Tensor, log_q: Tensor, q: Tensor, beta: float, mixture: Tensor, out: Tensor
) -> None:
    """Write `log q - log m` to `out`, and log m to `mixture`; of p in place of m at β = 1."""
    if beta == 1:
        torch.sub(log_q, log_p, out=out)
        return
    torch.mul(p, beta, out=mixture).add_(q, alpha=1 - beta)
    # Where both probabilities have vanished, so has what they multiply, but not as 0 · ∞.
    mixture.clamp_(min=torch.finfo(mixture.dtype).tiny).log_()
    torch.sub(log_q, mixture, out=out)


def _expected(p: Tensor, values: Tensor) -> Tensor:  # -> [R]
    """`Σ_v p_v · values_v`; overwrites the values."""
    return values.mul_(p).sum(dim=-1)
