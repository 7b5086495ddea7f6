"""Distance of the probabilities of two rows of logits over any two vocabularies.

Compared by rank it is `Σ_i |sort↓(p)_i - sort↓(q)_i|`, the shorter row padded with zeros. With a `Matching`,
some tokens of one row are compared with certain ones of the other, `Σ_s |p_s - q_s|`, only the rest by rank.

There is no Triton kernel: nearly all of the time goes into the sort, for which torch has a radix sort on
CUDA, and the difference of the sorted rows is one more pass over them.

Shapes: G students share a row of the teacher, R rows, V and W the two vocabularies, S matched tokens, N and M
the others.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from katlit.kernels.rows import blocks, wide_dtype

# From this width on torch sorts one row of integers by radix, nine times faster than a matrix of floats.
RADIX_WIDTH = 32768


class Matching(NamedTuple):
    """Which tokens are compared with which; ids of the student, then of the teacher."""

    student: Tensor  # [S] int64
    teacher: Tensor  # [S] int64, each the counterpart of the student's
    student_others: Tensor  # [N] int64, compared by rank
    teacher_others: Tensor  # [M] int64


def forward(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, matching: Matching | None = None
) -> Tensor:  # [G, R]
    """Sweep over rows of logits.

    Args:
        student: [G, R, V].
        teacher: [R, W].
        temperature: Divides the logits of both sides.
        matching: None compares all by rank.
    """
    values = student.new_empty(student.shape[:2], dtype=wide_dtype(student))
    for rows in blocks(student):
        theirs = _teacher(teacher[rows], temperature, matching)
        for g, logits in enumerate(student[:, rows]):
            ranked = _by_rank(_probabilities(logits, temperature), theirs, matching)
            values[g, rows] = ranked.difference.abs_().sum(dim=-1) + ranked.missing
            if ranked.matched is not None:
                values[g, rows] += ranked.matched.abs_().sum(dim=-1)
    return values


def add_gradient(
    student: Tensor,
    teacher: Tensor,
    upstream: Tensor,
    out: Tensor,
    temperature: float = 1.0,
    matching: Matching | None = None,
) -> None:
    """Add the gradient by the student's logits: `p·(s - Σ p·s) / temperature` for the sign s of a difference.

    Args:
        student: [G, R, V].
        teacher: [R, W].
        upstream: [G, R], gradient by the values; a row of 0 adds 0.
        out: [G, R, V], what is added to.
        temperature: Divides the logits of both sides.
        matching: As in `forward`.
    """
    factors = upstream.to(wide_dtype(student)) / temperature
    for rows in blocks(student):
        theirs = _teacher(teacher[rows], temperature, matching)
        for g, logits in enumerate(student[:, rows]):
            ours = _probabilities(logits, temperature)
            ranked = _by_rank(ours, theirs, matching)
            signs = torch.empty_like(ours).scatter_(-1, ranked.tokens, ranked.difference.sign_())
            if matching is not None and ranked.matched is not None:
                signs[:, matching.student] = ranked.matched.sign_()
            mean = (ours * signs).sum(dim=-1, keepdim=True)
            gradient = ours.mul_(signs.sub_(mean)).mul_(factors[g, rows].unsqueeze(-1))
            out[g, rows] += gradient.to(out.dtype)


class _Teacher(NamedTuple):
    ranked: Tensor  # [R, M], ascending
    matched: Tensor | None  # [R, S]


class _Ranked(NamedTuple):
    difference: Tensor  # [R, N], student - teacher by ascending rank
    tokens: Tensor  # [R, N], the student's tokens of these ranks
    missing: Tensor  # [R], what the student has no ranks for
    matched: Tensor | None  # [R, S], student - teacher


def _teacher(logits: Tensor, temperature: float, matching: Matching | None) -> _Teacher:
    probabilities = _probabilities(logits, temperature)
    if matching is None:
        return _Teacher(_sort(probabilities)[0], None)
    return _Teacher(_sort(probabilities[:, matching.teacher_others])[0], probabilities[:, matching.teacher])


def _by_rank(ours: Tensor, theirs: _Teacher, matching: Matching | None) -> _Ranked:
    difference, tokens = _sort(ours if matching is None else ours[:, matching.student_others])
    # Ascending, so both end with their largest; what the shorter one lacks in front are its zeros.
    n, m = difference.shape[-1], theirs.ranked.shape[-1]
    common = min(n, m)
    difference[:, n - common :] -= theirs.ranked[:, m - common :]
    missing = theirs.ranked[:, : m - common].sum(dim=-1)
    if matching is None or theirs.matched is None:
        return _Ranked(difference, tokens, missing, None)
    matched = ours[:, matching.student] - theirs.matched
    return _Ranked(difference, matching.student_others[tokens], missing, matched)


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.to(wide_dtype(logits)) / temperature).softmax(dim=-1)


def _sort(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Values and order of each row, ascending; new tensors."""
    wide = probabilities.shape[-1] >= RADIX_WIDTH
    if not wide or probabilities.device.type != "cpu" or probabilities.dtype != torch.float32:
        values, order = torch.sort(probabilities, dim=-1)
        return values, order
    # Floats that are not negative are ordered as their bits are.
    bits = probabilities.contiguous().view(torch.int32)
    values, order = torch.empty_like(bits), torch.empty_like(bits, dtype=torch.int64)
    for row in range(len(bits)):
        torch.sort(bits[row], out=(values[row], order[row]))
    return values.view(torch.float32), order
