"""Distance of the probabilities of two rows of logits over any two vocabularies.

Compared by rank it is `Σ_i |sort↓(p)_i - sort↓(q)_i|`, the shorter row padded with zeros. With a `Matching`,
some tokens of one row are compared with certain ones of the other, `Σ_s |p_s - q_s|`, only the rest by rank.

There is no Triton kernel: nearly all of the time goes into the sort. For it torch has a radix sort on CUDA.
On the CPU NumPy sorts with vector instructions, in a tenth of torch's time or less; which of equal values
comes first is then the processor's choice, so a tie may have either sign.

Shapes: G students share a row of the teacher, R rows, V and W the two vocabularies, S matched tokens, N and M
the others.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from katlit.kernels.rows import blocks, wide_dtype


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
            ours = _probabilities(logits, temperature)
            ranked = _sort(ours if matching is None else ours[:, matching.student_others])
            missing = _subtract(ranked, theirs.ranked)
            values[g, rows] = ranked.abs_().sum(dim=-1) + missing
            if matching is not None and theirs.matched is not None:
                values[g, rows] += (ours[:, matching.student] - theirs.matched).abs_().sum(dim=-1)
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
            others = ours if matching is None else ours[:, matching.student_others]
            tokens = _order(others)
            ranked = others.gather(-1, tokens)
            _subtract(ranked, theirs.ranked)
            if matching is not None:
                tokens = matching.student_others[tokens]
            signs = torch.empty_like(ours).scatter_(-1, tokens, ranked.sign_())
            if matching is not None and theirs.matched is not None:
                signs[:, matching.student] = (ours[:, matching.student] - theirs.matched).sign_()
            mean = (ours * signs).sum(dim=-1, keepdim=True)
            gradient = ours.mul_(signs.sub_(mean)).mul_(factors[g, rows].unsqueeze(-1))
            out[g, rows] += gradient.to(out.dtype)


class _Teacher(NamedTuple):
    ranked: Tensor  # [R, M], ascending
    matched: Tensor | None  # [R, S]


def _teacher(logits: Tensor, temperature: float, matching: Matching | None) -> _Teacher:
    probabilities = _probabilities(logits, temperature)
    if matching is None:
        return _Teacher(_sort(probabilities), None)
    return _Teacher(_sort(probabilities[:, matching.teacher_others]), probabilities[:, matching.teacher])


def _subtract(ours: Tensor, theirs: Tensor) -> Tensor:  # [R, N], [R, M] -> [R]
    """Take theirs from ours in place, rank by rank; the sum of those for which ours have no rank."""
    # Ascending, so both end with their largest; what the shorter one lacks in front are its zeros.
    n, m = ours.shape[-1], theirs.shape[-1]
    common = min(n, m)
    ours[:, n - common :] -= theirs[:, m - common :]
    return theirs[:, : m - common].sum(dim=-1)


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.to(wide_dtype(logits)) / temperature).softmax(dim=-1)


def _sort(probabilities: Tensor) -> Tensor:
    """Each row ascending; a new tensor."""
    if probabilities.device.type == "cpu":
        return torch.from_numpy(np.sort(probabilities.numpy(), axis=-1))
    return probabilities.sort(dim=-1).values


def _order(probabilities: Tensor) -> Tensor:
    """Where each row has its values in ascending order; of equal ones any first."""
    if probabilities.device.type == "cpu":
        return torch.from_numpy(np.argsort(probabilities.numpy(), axis=-1))
    return probabilities.argsort(dim=-1)
