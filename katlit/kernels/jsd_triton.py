"""Triton kernels of `katlit.kernels.jsd`: one launch forward, one backward.

Forward, a program passes over its two rows twice, since the mixture needs both sums: the second time they
may come from the cache. Backward, once. Padding and offsets as in `log_prob_triton`.

Shapes: G students share a row of the teacher, R rows, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_PADDING = tl.constexpr(-1e30)
_TINY = tl.constexpr(1.1754943508222875e-38)  # the least normal float32


@triton.jit
def _grown(top, total, z):
    """Largest value and `Σ e^(z - top)`, with one more block."""
    new_top = tl.maximum(top, tl.max(z, axis=0))
    return new_top, total * tl.exp(top - new_top) + tl.sum(tl.exp(z - new_top), axis=0)


@triton.jit
def _read(row, where, vocabulary, temperature):
    return tl.load(row + where, mask=where < vocabulary, other=_PADDING).to(tl.float32) / temperature


@triton.jit
def _log_mixture(log_p, log_q, beta, BETA_IS_ONE: tl.constexpr):
    """Logarithm of the mixture of p and q; of p alone at β = 1."""
    if BETA_IS_ONE:
        return log_p
    return tl.log(tl.maximum(beta * tl.exp(log_p) + (1 - beta) * tl.exp(log_q), _TINY))


@triton.jit
def _forward(
    student, depth_stride, row_stride, teacher, teacher_stride, beta,
    temperature, out, of_teacher, vocabulary,
    BETA_IS_ZERO: tl.constexpr, BETA_IS_ONE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, depth = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    rows = tl.num_programs(0).to(tl.int64)
    number = rows * tl.num_programs(1)
    ours = student + depth * depth_stride + row * row_stride
    theirs = teacher + row * teacher_stride
    top = tl.full((), _PADDING, tl.float32)
    total = tl.full((), 0.0, tl.float32)
    teacher_top = tl.full((), _PADDING, tl.float32)
    teacher_total = tl.full((), 0.0, tl.float32)
    for start in range(0, vocabulary, BLOCK):
        where = start + tl.arange(0, BLOCK)
        top, total = _grown(top, total, _read(ours, where, vocabulary, temperature))
        z = _read(theirs, where, vocabulary, temperature)
        teacher_top, teacher_total = _grown(teacher_top, teacher_total, z)
    log_total, teacher_log_total = tl.log(total), tl.log(teacher_total)
    of_p = tl.full((), 0.0, tl.float32)
    of_q = tl.full((), 0.0, tl.float32)
    for start in range(0, vocabulary, BLOCK):
        where = start + tl.arange(0, BLOCK)
        log_q = _read(ours, where, vocabulary, temperature) - top - log_total
        log_p = _read(theirs, where, vocabulary, temperature) - teacher_top - teacher_log_total
        if BETA_IS_ZERO:
            of_p += tl.sum(tl.exp(log_p) * (log_p - log_q), axis=0)
        else:
            log_m = _log_mixture(log_p, log_q, beta, BETA_IS_ONE)
            of_p += tl.sum(tl.exp(log_p) * (log_p - log_m), axis=0)
            of_q += tl.sum(tl.exp(log_q) * (log_q - log_m), axis=0)
    value = of_p if BETA_IS_ZERO else beta * of_p + (1 - beta) * of_q
    value = of_q if BETA_IS_ONE else value
    place = out + depth * rows + row
    tl.store(place, value)
    tl.store(place + number, of_q)
    tl.store(place + 2 * number, top)
    tl.store(place + 3 * number, log_total)
    if depth == 0:
        tl.store(of_teacher + row, teacher_top)
        tl.store(of_teacher + rows + row, teacher_log_total)


@triton.jit
def _add_gradient(
    student, depth_stride, row_stride, teacher, teacher_stride, beta,
    temperature, means, tops, log_totals, teacher_tops, teacher_log_totals,
    upstream, out, out_depth_stride, out_stride, vocabulary,
    BETA_IS_ZERO: tl.constexpr, BETA_IS_ONE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, depth = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = depth * tl.num_programs(0) + row
    where = tl.program_id(2).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    z = _read(student + depth * depth_stride + row * row_stride, where, vocabulary, temperature)
    log_q = z - tl.load(tops + place) - tl.load(log_totals + place)
    z = _read(teacher + row * teacher_stride, where, vocabulary, temperature)
    log_p = z - tl.load(teacher_tops + row) - tl.load(teacher_log_totals + row)
    factor = tl.load(upstream + place) / temperature
    q = tl.exp(log_q)
    if BETA_IS_ZERO:
        gradient = factor * (q - tl.exp(log_p))
    else:
        log_m = _log_mixture(log_p, log_q, beta, BETA_IS_ONE)
        factor = factor if BETA_IS_ONE else factor * (1 - beta)
        gradient = factor * q * (log_q - log_m - tl.load(means + place))
    target = out + depth * out_depth_stride + row * out_stride + where
    inside = where < vocabulary
    total = tl.load(target, mask=inside, other=0.0).to(tl.float32) + gradient
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)


def forward(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> tuple[Tensor, ...]:
    """Values, mean, top and log total [G, R], the teacher's top and log total [R]; all float32."""
    depths, rows, vocabulary = student.shape
    out = student.new_empty((4, depths, rows), dtype=torch.float32)
    of_teacher = student.new_empty((2, rows), dtype=torch.float32)
    if out.numel():
        block = min(_BLOCK, triton.next_power_of_2(vocabulary))
        _forward[(rows, depths)](
            student, *student.stride()[:2], teacher, teacher.stride(0), float(beta), float(temperature), out,
            of_teacher, vocabulary, BETA_IS_ZERO=beta == 0, BETA_IS_ONE=beta == 1, BLOCK=block, num_warps=8,
        )  # fmt: skip
    return *out, *of_teacher


def add_gradient(
    student: Tensor,
    teacher: Tensor,
    known: tuple[Tensor, ...],
    upstream: Tensor,
    out: Tensor,
    beta: float,
    temperature: float,
) -> None:
    """Add the gradient by the student's logits to `out`; `known` is what `forward` gave, values left out."""
    depths, rows, vocabulary = student.shape
    if upstream.numel():
        block = min(_BLOCK, triton.next_power_of_2(vocabulary))
        _add_gradient[(rows, depths, triton.cdiv(vocabulary, block))](
            student, *student.stride()[:2], teacher, teacher.stride(0), float(beta), float(temperature),
            *known, upstream.float().contiguous(), out, *out.stride()[:2], vocabulary,
            BETA_IS_ZERO=beta == 0, BETA_IS_ONE=beta == 1, BLOCK=block, num_warps=8,
        )  # fmt: skip
