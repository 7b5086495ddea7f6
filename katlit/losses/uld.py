"""Universal Logit Distillation, between models of two vocabularies (Boizard et al., arXiv 2402.12030).

Shapes: P positions, V and W the two vocabularies, S tokens that they share.
"""

import torch
from torch import Tensor

from katlit.losses.sorted_distance import sorted_distance


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
    student = _probabilities(student_logits, temperature)
    return sorted_distance(student, _probabilities(teacher_logits.detach(), temperature))


def hybrid_uld(
    student_logits: Tensor,  # [P, V]
    teacher_logits: Tensor,  # [P, W]
    student_shared: Tensor,  # [S] int64
    teacher_shared: Tensor,  # [S] int64
    temperature: float = 1.0,
) -> Tensor:  # [P]
    """Tokens of both vocabularies are compared as such, only the rest by rank (recipe §3, our choice).

    `Σ_s |p_s - q_s|` over the shared tokens plus the sum of `uld` over all others, from 0 to 2. With nothing
    shared it is `uld`; with everything, twice the total variation distance. What is left is smaller than a
    vocabulary, so it is cheaper as well.

    Args:
        student_logits: Get the gradient.
        teacher_logits: Get none.
        student_shared: The student's ids of the shared tokens, none twice.
        teacher_shared: The teacher's ids of the same tokens, in the same order.
        temperature: Divides the logits of both sides.
    """
    student = _probabilities(student_logits, temperature)
    teacher = _probabilities(teacher_logits.detach(), temperature)
    matched = (student[:, student_shared] - teacher[:, teacher_shared]).abs().sum(dim=-1)
    ours, theirs = _others(student_shared, student.shape[-1]), _others(teacher_shared, teacher.shape[-1])
    return matched + sorted_distance(student[:, ours], teacher[:, theirs])


def _others(ids: Tensor, vocabulary: int) -> Tensor:  # [S] -> [V - S]
    """Ids that are not among the given ones; its length is known, so nothing waits for the device."""
    given = torch.zeros(vocabulary, dtype=torch.int8, device=ids.device).index_fill_(0, ids, 1)
    return given.argsort(stable=True)[: vocabulary - len(ids)]


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return (wide / temperature).softmax(dim=-1)
