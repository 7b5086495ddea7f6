"""Universal Logit Distillation, between models of two vocabularies (Boizard et al., arXiv 2402.12030).

Shapes: G students share a row of the teacher, R rows, V and W the two vocabularies, S tokens that they share.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from katlit.kernels import uld as kernel
from katlit.kernels.uld import Matching
from katlit.losses.divergence import of_logits


@dataclass(frozen=True)
class UniversalLogit:
    """`Σ_i |sort↓(p)_i - sort↓(q)_i|`, the shorter vector padded with zeros (recipe §3): from 0 to 2.

    Args:
        temperature: Divides the logits of both sides.
        matching: Tokens of both vocabularies, which are compared as such, and only the rest by rank (recipe
            §3, our choice): `Σ_s |p_s - q_s|` over the shared ones, plus the sum above over the others. With
            nothing shared it is that sum; with everything, twice the total variation distance. None: all are
            compared by rank.
    """

    temperature: float = 1.0
    matching: Matching | None = None

    def to(self, device: torch.device) -> "UniversalLogit":
        """See `Divergence`."""
        if self.matching is None or self.matching.student.device == device:
            return self
        return replace(self, matching=Matching(*(ids.to(device) for ids in self.matching)))

    def sweep(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
        """See `Divergence`."""
        return (kernel.forward(student, teacher, self.temperature, self.matching),)

    def add_gradient(
        self, student: Tensor, teacher: Tensor, _found: tuple[Tensor, ...], upstream: Tensor, out: Tensor
    ) -> None:
        """See `Divergence`."""
        kernel.add_gradient(student, teacher, upstream, out, self.temperature, self.matching)


def matching_of(
    student_shared: Tensor,  # [S] int64
    teacher_shared: Tensor,  # [S] int64
    student_vocabulary: int,
    teacher_vocabulary: int,
) -> Matching:
    """What `UniversalLogit` wants to know of the tokens that two vocabularies share.

    Args:
        student_shared: The student's ids of the shared tokens, none twice.
        teacher_shared: The teacher's ids of the same tokens, in the same order.
        student_vocabulary: V.
        teacher_vocabulary: W.
    """
    ours, theirs = _others(student_shared, student_vocabulary), _others(teacher_shared, teacher_vocabulary)
    return Matching(student_shared, teacher_shared, ours, theirs)


def _others(ids: Tensor, vocabulary: int) -> Tensor:  # [S] -> [V - S]
    given = torch.zeros(vocabulary, dtype=torch.bool, device=ids.device).index_fill_(0, ids, True)
    return (~given).nonzero().squeeze(-1)


def uld(
    student_logits: Tensor,  # [R, V]
    teacher_logits: Tensor,  # [R, W]
    temperature: float = 1.0,
    matching: Matching | None = None,
) -> Tensor:  # [R]
    """`UniversalLogit` of logits that exist already; `distillation` is for those that need not."""
    return of_logits(student_logits, teacher_logits, UniversalLogit(temperature, matching))
