"""Universal Logit Distillation, between models of two vocabularies (Boizard et al., arXiv 2402.12030).

Shapes: G students share a row of the teacher, R rows, V and W the two vocabularies.
"""

from dataclasses import dataclass

from torch import Tensor

from katlit.kernels import uld as kernel
from katlit.losses.divergence import of_logits


@dataclass(frozen=True)
class UniversalLogit:
    """`Σ_i |sort↓(p)_i - sort↓(q)_i|`, the shorter vector padded with zeros (recipe §3): from 0 to 2.

    Args:
        temperature: Divides the logits of both sides.
    """

    temperature: float = 1.0

    def sweep(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
        """See `Divergence`."""
        return (kernel.forward(student, teacher, self.temperature),)

    def add_gradient(
        self, student: Tensor, teacher: Tensor, _found: tuple[Tensor, ...], upstream: Tensor, out: Tensor
    ) -> None:
        """See `Divergence`."""
        kernel.add_gradient(student, teacher, upstream, out, self.temperature)


def uld(
    student_logits: Tensor,  # [R, V]
    teacher_logits: Tensor,  # [R, W]
    temperature: float = 1.0,
) -> Tensor:  # [R]
    """`UniversalLogit` of logits that exist already; `distillation` is for those that need not."""
    return of_logits(student_logits, teacher_logits, UniversalLogit(temperature))
