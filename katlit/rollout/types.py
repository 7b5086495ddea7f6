"""From sampled rollouts to the tensors that the loss sees.

Shapes: B rows, L tokens a row, N rollouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from katlit.engines.base import Completion
from katlit.packing import fill_rows, shortest_rows
from katlit.rewards import Verdict
from katlit.text.protocol import Mode, ParsedResponse, Protocol, Thinking

_MODES = {Mode.THINK_ON: 1, Mode.THINK_OFF: 0, None: -1}


class Sampled(NamedTuple):
    """One completion, before it is scored."""

    group: int  # index of the prompt
    thinking: Thinking
    prompt_ids: list[int]
    completion: Completion
    number: int  # among the rollouts of its prompt
    seed: int  # of its request

    @property
    def truncated(self) -> bool:
        """Whether the length limit ended it."""
        return self.completion.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response to a prompt of the batch."""

    group: int  # index of the prompt
    thinking: Thinking  # on and off: the mode was forced
    prompt_ids: list[int]  # through `<judge>` or, where the mode was forced, through the forced prefill
    completion: Completion
    number: int  # among the rollouts of its prompt
    seed: int  # of its request
    parsed: ParsedResponse
    reward: float  # NaN where it is unjudged
    correct: bool
    verdicts: dict[str, Verdict]  # of each component of the reward

    @property
    def truncated(self) -> bool:
        """Whether the length limit ended it."""
        return self.completion.finish_reason == "length"

    @property
    def unjudged(self) -> list[Verdict]:
        """The verdicts of components that could not judge it: a rollout with any is not trained on."""
        return [verdict for verdict in self.verdicts.values() if verdict.value is None]

    @property
    def forced(self) -> bool:
        """Whether its mode was forced by prefill."""
        return self.thinking != "auto"


def outcomes(rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
    """What is known of each of N rollouts, [N]."""
    return {
        "group_ids": torch.tensor([rollout.group for rollout in rollouts], dtype=torch.int64),
        "modes": torch.tensor([_MODES[rollout.parsed.mode] for rollout in rollouts], dtype=torch.int64),
        "rewards": torch.tensor([rollout.reward for rollout in rollouts], dtype=torch.float32),
        "correct": torch.tensor([rollout.correct for rollout in rollouts], dtype=torch.bool),
        "truncated": torch.tensor([rollout.truncated for rollout in rollouts], dtype=torch.bool),
        "forced": torch.tensor([rollout.forced for rollout in rollouts], dtype=torch.bool),
        "tokens": torch.tensor([len(one.completion.token_ids) for one in rollouts], dtype=torch.int64),
    }


def lay_out(
    rollouts: Sequence[Rollout],
    members: Sequence[int],
    row_tokens: int,
    protocol: Protocol,
    probes: Sequence[Sampled] | None = None,
) -> dict[str, torch.Tensor]:
    """Pack rollouts into rows; without any, one row of padding keeps the step defined.

    Args:
        rollouts: N of them.
        members: Which of them this micro-batch trains on, as indices.
        row_tokens: Longest packed row; a longer rollout has a row of its own.
        protocol: Of the policy, for padding and segments.
        probes: Completions that carry no loss; None where nothing has to be probed.

    Returns:
        The tokens of a `RolloutBatch`, [B, L] each; `probe_mask` only where there are probes.
    """
    own = [rollouts[index] for index in members]
    documents: list[Rollout | Sampled] = [*own, *(probes or [])]
    lengths = [document_tokens(document) for document in documents]
    rows = shortest_rows(lengths, row_tokens) if documents else [[]]

    def filled(values: list[list[Any]], padding: Any) -> list[torch.Tensor]:
        return list(fill_rows([[values[index] for index in row] for row in rows], padding))

    tokens = [[*document.prompt_ids, *document.completion.token_ids] for document in documents]
    input_ids, position_ids = filled(tokens, protocol.pad_id)
    sampled = [
        [False] * len(document.prompt_ids) + [True] * len(document.completion.token_ids)
        for document in documents
    ]
    log_probs = [[0.0] * len(document.prompt_ids) + document.completion.log_probs for document in documents]
    number = len(own)
    nothing = [[False] * length for length in lengths]
    judge = [_judge_mask(rollout, protocol) for rollout in own] + nothing[number:]
    owners = [*members, *([-1] * (len(documents) - number))]
    owner = [[index] * length for index, length in zip(owners, lengths, strict=True)]
    mask = {} if probes is None else {"probe_mask": filled(nothing[:number] + sampled[number:], False)[0]}
    return mask | {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "loss_mask": filled(sampled[:number] + nothing[number:], False)[0],
        "judge_mask": filled(judge, False)[0],
        "rollout_log_probs": filled(log_probs, 0.0)[0],
        "rollout_ids": filled(owner, -1)[0],
    }


def document_tokens(document: Rollout | Sampled) -> int:
    """Tokens of prompt and completion."""
    return len(document.prompt_ids) + len(document.completion.token_ids)


def _judge_mask(rollout: Rollout, protocol: Protocol) -> list[bool]:
    """True on the sampled tokens through the mode marker; a forced judge is not sampled."""
    ids = rollout.completion.token_ids
    judge = 0 if rollout.forced else protocol.judge_length(ids)
    return [False] * len(rollout.prompt_ids) + [True] * judge + [False] * (len(ids) - judge)
