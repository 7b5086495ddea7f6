"""Which tokens each depth of multi-token prediction is trained on.

Depth 0 is the model's own head. Depth k predicts the target at flattened index s from position s - k - 1, so
a target is within its reach only where that position lies in the same document.

Shapes: B rows, L tokens, P aligned pairs, T targets.
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
    """How many aligned pairs a depth can predict."""
    return within_reach(student_targets, position_ids, depth).sum()


def paired_first(student_targets: Tensor, loss_mask: Tensor, position_ids: Tensor) -> Tensor:
    """All targets of depth 0, those with a teacher first and in their order.

    Args:
        student_targets: [P], targets with a teacher, indices into the flattened rows.
        loss_mask: [B, L] bool, True on targets.
        position_ids: [B, L], 0 at each document's first token.

    Returns:
        Indices into the flattened rows, [T].
    """
    others = loss_mask.flatten().index_fill(0, student_targets, False).view_as(loss_mask)
    return torch.cat([student_targets, target_indices(others, position_ids, 0)])


def within_reach(targets: Tensor, position_ids: Tensor, depth: int) -> Tensor:
    """Which of the targets a depth can predict.

    Args:
        targets: [T], indices into the flattened rows.
        position_ids: [B, L].
        depth: k ≥ 0.

    Returns:
        [T] bool.
    """
    return position_ids.flatten()[targets] > depth
