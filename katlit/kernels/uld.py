"""Distance of the sorted probabilities of two rows of logits over any two vocabularies.

`Σ_i |sort↓(p)_i - sort↓(q)_i|`, the shorter row padded with zeros. Softmax keeps the order, so logits are
sorted in place of probabilities. There is no Triton kernel: nearly all of the time goes into the sort, for
which torch has a radix sort on CUDA, and the difference of the sorted rows is one more pass over them.

Shapes: G students share a row of the teacher, R rows, V and W the two vocabularies.
"""

import torch
from torch import Tensor

from katlit.kernels.rows import blocks, wide_dtype


def forward(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:  # [G, R]
    """Sweep over rows of logits.

    Args:
        student: [G, R, V].
        teacher: [R, W].
        temperature: Divides the logits of both sides.
    """
    values = student.new_empty(student.shape[:2], dtype=wide_dtype(student))
    for rows in blocks(student):
        theirs = _sorted_probabilities(teacher[rows], temperature)[0]
        for g, logits in enumerate(student[:, rows]):
            ours = _sorted_probabilities(logits, temperature)[0]
            common = min(ours.shape[-1], theirs.shape[-1])
            rest = ours[:, common:].sum(dim=-1) + theirs[:, common:].sum(dim=-1)
            values[g, rows] = (ours[:, :common] - theirs[:, :common]).abs_().sum(dim=-1) + rest
    return values


def add_gradient(
    student: Tensor, teacher: Tensor, upstream: Tensor, out: Tensor, temperature: float = 1.0
) -> None:
    """Add the gradient by the student's logits: `p·(s - Σ p·s) / temperature` for the sign s at p's rank.

    Args:
        student: [G, R, V].
        teacher: [R, W].
        upstream: [G, R], gradient by the values; a row of 0 adds 0.
        out: [G, R, V], what is added to.
        temperature: Divides the logits of both sides.
    """
    factors = upstream.to(wide_dtype(student)) / temperature
    for rows in blocks(student):
        theirs = _sorted_probabilities(teacher[rows], temperature)[0]
        for g, logits in enumerate(student[:, rows]):
            ours, order = _sorted_probabilities(logits, temperature)
            common = min(ours.shape[-1], theirs.shape[-1])
            signs = torch.ones_like(ours)
            torch.sub(ours[:, :common], theirs[:, :common], out=signs[:, :common]).sign_()
            mean = (ours * signs).sum(dim=-1, keepdim=True)
            gradient = ours.mul_(signs.sub_(mean)).mul_(factors[g, rows].unsqueeze(-1))
            out[g, rows].scatter_add_(-1, order, gradient.to(out.dtype))


def _sorted_probabilities(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Probabilities in falling order, and the tokens in that order."""
    values, order = logits.sort(dim=-1, descending=True)
    return (values.to(wide_dtype(logits)) / temperature).softmax(dim=-1), order
