"""From sampled rollouts to the tensors that the loss sees.

Shapes: B rows, L tokens a row, N rollouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from katlit.packing import best_fit_decreasing, fill_rows
from katlit.protocol import Mode, ParsedResponse, Protocol, Thinking
from katlit.rollout.engine import Completion

_MODES = {Mode.THINK_ON: 1, Mode.THINK_OFF: 0, None: -1}


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response to a prompt of the batch."""

    group: int  # index of the prompt
    thinking: Thinking  # on and off: the mode was forced
    prompt_ids: list[int]  # through `<judge>` or, where the mode was forced, through the forced prefill
    completion: Completion
    parsed: ParsedResponse
    reward: float
    correct: bool

    @property
    def truncated(self) -> bool:
        """Whether the length limit ended it."""
        return self.completion.finish_reason == "length"

    @property
    def forced(self) -> bool:
        """Whether its mode was forced by prefill."""
        return self.thinking != "auto"


def lay_out(rollouts: Sequence[Rollout], row_tokens: int, protocol: Protocol) -> dict[str, Any]:
    """Pack rollouts into rows; without any, one row of padding keeps the step defined.

    Args:
        rollouts: N of them.
        row_tokens: Length of a packed row; a longer rollout has a row of its own.
        protocol: Of the policy, for padding and segments.

    Returns:
        All tensors of a `RolloutBatch` but the advantages.
    """
    lengths = [len(rollout.prompt_ids) + len(rollout.completion.token_ids) for rollout in rollouts]
    rows = best_fit_decreasing(lengths, row_tokens) if rollouts else [[]]

    def filled(values: list[list[Any]], padding: Any) -> list[torch.Tensor]:
        return list(fill_rows([[values[index] for index in row] for row in rows], padding))

    tokens = [[*rollout.prompt_ids, *rollout.completion.token_ids] for rollout in rollouts]
    input_ids, position_ids = filled(tokens, protocol.pad_id)
    sampled = [
        [False] * len(rollout.prompt_ids) + [True] * len(rollout.completion.token_ids) for rollout in rollouts
    ]
    judge = [_judge_mask(rollout, protocol) for rollout in rollouts]
    log_probs = [[0.0] * len(rollout.prompt_ids) + rollout.completion.log_probs for rollout in rollouts]
    owner = [[index] * length for index, length in enumerate(lengths)]
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "loss_mask": filled(sampled, False)[0],
        "judge_mask": filled(judge, False)[0],
        "rollout_log_probs": filled(log_probs, 0.0)[0],
        "rollout_ids": filled(owner, -1)[0],
        "group_ids": torch.tensor([rollout.group for rollout in rollouts], dtype=torch.int64),
        "modes": torch.tensor([_MODES[rollout.parsed.mode] for rollout in rollouts], dtype=torch.int64),
        "rewards": torch.tensor([rollout.reward for rollout in rollouts], dtype=torch.float32),
        "correct": torch.tensor([rollout.correct for rollout in rollouts], dtype=torch.bool),
        "truncated": torch.tensor([rollout.truncated for rollout in rollouts], dtype=torch.bool),
        "forced": torch.tensor([rollout.forced for rollout in rollouts], dtype=torch.bool),
    }


def _judge_mask(rollout: Rollout, protocol: Protocol) -> list[bool]:
    """True on the sampled tokens through the mode marker; a forced judge is not sampled."""
    ids = rollout.completion.token_ids
    judge = 0 if rollout.forced else protocol.judge_length(ids)
    return [False] * len(rollout.prompt_ids) + [True] * judge + [False] * (len(ids) - judge)
