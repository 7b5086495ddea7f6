"""A micro-batch of rows as several of fewer rows, for one forward and backward pass each.

Shapes: B rows, L tokens a row.
"""

from typing import Any

import torch
from torch import Tensor

# What an empty portion is filled with, of everything that has a row for a row; the padding's token beside it.
_PADDING: dict[str, Any] = {
    "position_ids": 0,
    "loss_mask": False,
    "judge_mask": False,
    "probe_mask": False,
    "rollout_ids": -1,
    "rollout_log_probs": 0.0,
    "old_log_probs": 0.0,
}


def portions_needed(batch: Any, pass_tokens: int) -> int:
    """How many portions a batch needs so that none has more tokens, or has a single row.

    Args:
        batch: With `input_ids` [B, L].
        pass_tokens: Most tokens of a portion, padding included.
    """
    rows, length = batch["input_ids"].shape
    return -(-rows // max(1, pass_tokens // length))


def portions(batch: Any, number: int, pad_id: int) -> list[Any]:
    """Divide the rows of a batch of rollouts evenly; what is known of all rollouts each portion knows.

    Args:
        batch: With tokens [B, L]; others' entries go into each portion as they are.
        number: Number of portions. Those beyond B are a single token of padding, which carries no loss but
            gives a graph: all ranks run as many passes.
        pad_id: Token id of the padding.

    Returns:
        The batch itself where there is to be one, else new ones over its memory.
    """
    if number == 1:
        return [batch]
    fillers = _PADDING | {"input_ids": pad_id}
    rows = {name: torch.tensor_split(batch[name], number) for name in fillers if name in batch}
    return [
        batch | {name: _filled(parts[index], fillers[name]) for name, parts in rows.items()}
        for index in range(number)
    ]


def _filled(rows: Tensor, filler: Any) -> Tensor:
    return rows if len(rows) else rows.new_full((1, 1), filler)
