"""Distillation between two models of one vocabulary.

Shapes: P positions, V vocabulary.
"""

import math

import torch
from torch import Tensor


def jsd(
    student_logits: Tensor,  # [P, V]
    teacher_logits: Tensor,  # [P, V]
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:  # [P]
    """Generalised Jensen-Shannon divergence (Agarwal et al., arXiv 2306.13649, eq. 1), in nats.

    With the teacher's p, the student's q and `m = β·p + (1-β)·q` it is `β·KL(p‖m) + (1-β)·KL(q‖m)`. At
    β = 0 and β = 1, where that vanishes, it is the limit of it over β or 1-β: KL(p‖q), KL(q‖p).

    Args:
        student_logits: Get the gradient.
        teacher_logits: Get none.
        beta: Towards 0 forward KL, towards 1 reverse KL.
        temperature: Divides the logits of both sides.
    """
    student = _log_probs(student_logits, temperature)
    teacher = _log_probs(teacher_logits.detach(), temperature)
    if beta == 0:
        return _kl(teacher, student)
    if beta == 1:
        return _kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log(1 - beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide / temperature).log_softmax(dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p‖q) of each row, from log-probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)
