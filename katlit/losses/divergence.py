"""What distillation needs of a divergence between a student's and a teacher's logits.

Shapes: G students share a row of the teacher, R rows, V and W the vocabularies.
"""

from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

TeacherT_contra = TypeVar("TeacherT_contra", contravariant=True)


class Divergence(Protocol[TeacherT_contra]):
    """One value for each row, and its gradient by the student's logits.

    Of the teacher it takes logits, or what else is known of it (`katlit.losses.top_k`).
    """

    def to(self, device: torch.device) -> "Divergence[TeacherT_contra]":
        """The same divergence, with all that it holds on the device of the logits."""

    def sweep(self, student: Tensor, teacher: TeacherT_contra) -> tuple[Tensor, ...]:
        """Values [G, R] of logits [G, R, V] and R rows of the teacher; then what `add_gradient` wants."""

    def add_gradient(
        self,
        student: Tensor,
        teacher: TeacherT_contra,
        found: tuple[Tensor, ...],
        upstream: Tensor,
        out: Tensor,
    ) -> None:
        """Add to `out` [G, R, V], for `found` by `sweep` and the gradient by the values, [G, R]."""


class _OfLogits(Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, divergence: Divergence[Tensor]) -> Tensor:
        found = divergence.sweep(student.unsqueeze(0), teacher)
        ctx.divergence = divergence
        ctx.save_for_backward(student, teacher, *found)
        return found[0].squeeze(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, *found = ctx.saved_tensors
        out = student.new_zeros((1, *student.shape), dtype=found[0].dtype)
        ctx.divergence.add_gradient(student.unsqueeze(0), teacher, tuple(found), upstream.unsqueeze(0), out)
        return out.squeeze(0).to(student.dtype), None, None


def of_logits(student: Tensor, teacher: Tensor, divergence: Divergence[Tensor]) -> Tensor:
    """Divergence [R] of logits [R, V] and [R, W] that exist already; the teacher's get no gradient."""
    return _OfLogits.apply(student, teacher.detach(), divergence)  # type: ignore[no-untyped-call]
