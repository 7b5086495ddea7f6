"""Which tokens each depth of multi-token prediction is trained on.

Depth 0 is the model's own head. Depth k predicts the target at flattened index s from position s - k - 1, so
a target is within its reach only where that position lies in the same document.

Shapes: B rows, L tokens, P aligned pairs, T targets within reach.
"""

import torch
from torch import Tensor


def target_indices(loss_mask: Tensor, position_ids: Tensor, depth: int) -> Tensor:
    """Targets that a depth can predict.

    Args:
        loss_mask: [B, L] bool, True on targets.
        position_ids: [B, L], 0 at each document's first token.
        depth: k ≥ 0.

    Returns:
        Indices into the flattened rows, [T].
    """
    return (loss_mask & (position_ids > depth)).flatten().nonzero().squeeze(-1)


def target_number(loss_mask: Tensor, position_ids: Tensor, depth: int) -> Tensor:  # -> [] int64
    """How many targets a depth can predict: the length of `target_indices`, but nothing waits for it."""
    return (loss_mask & (position_ids > depth)).sum()


def pair_number(student_targets: Tensor, position_ids: Tensor, depth: int) -> Tensor:  # -> [] int64
    """How many aligned pairs a depth can predict: the length of `paired_indices`."""
    return (position_ids.flatten()[student_targets] > depth).sum()


def paired_indices(
    student_targets: Tensor, teacher_targets: Tensor, position_ids: Tensor, depth: int
) -> tuple[Tensor, Tensor]:
    """Aligned pairs of targets that a depth of the student can predict.

    Args:
        student_targets: [P], indices into the student's flattened rows.
        teacher_targets: [P], indices into the teacher's.
        position_ids: [B, L] of the student.
        depth: k ≥ 0.

    Returns:
        The two sides of the pairs within reach, [T] each.
    """
    reachable = position_ids.flatten()[student_targets] > depth
    return student_targets[reachable], teacher_targets[reachable]


def paired_targets(student_targets: Tensor, loss_mask: Tensor, position_ids: Tensor) -> Tensor:
    """Whether each target of depth 0 is one side of a pair.

    Args:
        student_targets: [P], indices into the flattened rows.
        loss_mask: [B, L] bool, True on targets.
        position_ids: [B, L], 0 at each document's first token.

    Returns:
        One value for each of `target_indices`, [T] bool.
    """
    paired = torch.zeros_like(loss_mask.flatten()).index_fill_(0, student_targets, True)
    return paired[target_indices(loss_mask, position_ids, 0)]
