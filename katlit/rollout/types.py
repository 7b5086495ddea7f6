"""Rollouts: responses to the prompts of a batch, as sampled and as scored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from katlit.batch import Prompt, RolloutBatch
from katlit.engines.base import Completion
from katlit.rewards import Verdict
from katlit.text.protocol import Mode, ParsedResponse, Protocol, Thinking


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


def in_order(parts: Sequence[Sequence[Rollout]]) -> list[Rollout]:
    """The rollouts of every n-th prompt, for each of n ranks, as those of all prompts."""
    all_of_them = [
        replace(rollout, group=rollout.group * len(parts) + rank)
        for rank, part in enumerate(parts)
        for rollout in part
    ]
    return sorted(all_of_them, key=lambda rollout: rollout.group)


def prompts_of(batches: Sequence[RolloutBatch]) -> list[Prompt]:
    """The prompts of some batches, in order."""
    return [prompt for batch in batches for prompt in batch["prompts"]]


def response_ids(one: Sampled | Rollout, protocol: Protocol) -> list[int]:
    """The tokens of a response from `<judge>` on, the forced part included."""
    prefill = [] if one.thinking == "auto" else protocol.forced_prefill(Mode(one.thinking))
    return [*prefill, *one.completion.token_ids]
