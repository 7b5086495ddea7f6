"""Distillation between two models of one vocabulary.

Shapes: G students share a row of the teacher, R rows, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from katlit.kernels import jsd as kernel
from katlit.kernels.rows import Impl
from katlit.losses.divergence import of_logits


@dataclass(frozen=True)
class JensenShannon:
    """Generalised Jensen-Shannon divergence (Agarwal et al., arXiv 2306.13649, eq. 1), in nats.

    With the teacher's p, the student's q and `m = β·p + (1-β)·q` it is `β·KL(p‖m) + (1-β)·KL(q‖m)`. At
    β = 0 and β = 1, where that vanishes, it is the limit of it over β or 1-β: KL(p‖q), KL(q‖p).

    Args:
        beta: Towards 0 forward KL, towards 1 reverse KL.
        temperature: Divides the logits of both sides.
        impl: Triton kernel or plain torch, see `katlit.kernels`.
    """

    beta: float = 0.5
    temperature: float = 1.0
    impl: Impl = "auto"

    def to(self, device: torch.device) -> "JensenShannon":  # noqa: ARG002 (holds nothing)
        """See `Divergence`."""
        return self

    def sweep(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
        """See `Divergence`."""
        return kernel.forward(student, teacher, self.beta, self.temperature, self.impl)

    def add_gradient(
        self, student: Tensor, teacher: Tensor, found: tuple[Tensor, ...], upstream: Tensor, out: Tensor
    ) -> None:
        """See `Divergence`."""
        known = kernel.Divergences(*found)
        kernel.add_gradient(student, teacher, known, upstream, out, self.beta, self.temperature, self.impl)


def jsd(
    student_logits: Tensor,  # [R, V]
    teacher_logits: Tensor,  # [R, V]
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:  # [R]
    """`JensenShannon` of logits that exist already; `distillation` is for those that need not."""
    return of_logits(student_logits, teacher_logits, JensenShannon(beta, temperature))
