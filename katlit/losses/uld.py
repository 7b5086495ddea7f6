"""Universal Logit Distillation, between models of two vocabularies (Boizard et al., arXiv 2402.12030).

Shapes: P positions, V and W the two vocabularies.
"""

import torch
from torch import Tensor, nn


def uld(
    student_logits: Tensor,  # [P, V]
    teacher_logits: Tensor,  # [P, W]
    temperature: float = 1.0,
) -> Tensor:  # [P]
    """`Σ_i |sort↓(p)_i - sort↓(q)_i|`, the shorter vector padded with zeros (recipe §3): from 0 to 2.

    Args:
        student_logits: Get the gradient.
        teacher_logits: Get none.
        temperature: Divides the logits of both sides.
    """
    student = _sorted_probabilities(student_logits, temperature)
    teacher = _sorted_probabilities(teacher_logits.detach(), temperature)
    missing = student.shape[-1] - teacher.shape[-1]
    student = nn.functional.pad(student, (0, max(-missing, 0)))
    teacher = nn.functional.pad(teacher, (0, max(missing, 0)))
    return (student - teacher).abs().sum(dim=-1)


def _sorted_probabilities(logits: Tensor, temperature: float) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.sort((wide / temperature).softmax(dim=-1), dim=-1, descending=True).values
