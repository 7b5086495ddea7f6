"""What is kept of a rollout, so that it can be followed and sampled again alone."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict  # which pydantic can read on Python 3.11

from katlit.batch import Prompt
from katlit.rollout.types import Rollout, response_ids
from katlit.text.protocol import Protocol, Thinking

Count = Annotated[int, Field(ge=0)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Advantages = Annotated[list[float], Field(min_length=2, max_length=2)]


class Origin(TypedDict):
    """Where the rollouts of an optimizer step come from."""

    run_seed: int
    rank: Count  # of the process that trained on them; where several see the same data, of their first
    epoch: Count
    step: Count  # optimizer steps before the one that they are trained on in
    policy_step: Count  # optimizer steps behind the weights that sampled them


class VerdictRecord(TypedDict):
    """A `katlit.rewards.Verdict`."""

    value: float | None
    reason: str
    timed_out: bool


class RolloutRecord(Origin):
    """One rollout, in types that JSON knows."""

    prompt_id: str
    group: Count  # place of the prompt among those of the step and rank, where a prompt may be repeated
    index: Count  # among the rollouts of its group
    thinking: Thinking  # on and off: the mode was forced
    seed: Seed  # of its request: `request_seed(run_seed, epoch, prompt_id, index)`
    prompt_ids: TokenIds
    token_ids: TokenIds
    log_probs: Annotated[list[float], Field(fail_fast=True)] | None  # of the tokens, by the engine
    truncated: bool
    judge_tokens: Count  # how many of the tokens are of the judge segment; none of a forced judge
    mode: Literal["on", "off"] | None
    violation: str | None  # the first one of the protocol
    verdicts: dict[str, VerdictRecord]  # of each component of the reward
    reward: float | None  # None where a component could not judge it: it was not trained on
    correct: bool
    left_out: bool  # all rewards of its group are equal, and such groups were not trained on
    advantages: Advantages | None  # of judge and answer, as trained on; None where it was not


def recorded(rollout: Rollout, prompt_id: str, protocol: Protocol, *, left_out: bool) -> dict[str, Any]:
    """A `RolloutRecord` without its origin and its advantages."""
    parsed = rollout.parsed
    ids = rollout.completion.token_ids
    return {
        "prompt_id": prompt_id,
        "group": rollout.group,
        "index": rollout.number,
        "thinking": rollout.thinking,
        "seed": rollout.seed,
        "prompt_ids": rollout.prompt_ids,
        "token_ids": ids,
        "log_probs": rollout.completion.log_probs,
        "truncated": rollout.truncated,
        "judge_tokens": 0 if rollout.forced else protocol.judge_length(ids),
        "mode": None if parsed.mode is None else parsed.mode.value,
        "violation": None if parsed.violation is None else parsed.violation.value,
        "verdicts": {
            name: VerdictRecord(value=verdict.value, reason=verdict.reason, timed_out=verdict.timed_out)
            for name, verdict in rollout.verdicts.items()
        },
        "reward": None if math.isnan(rollout.reward) else rollout.reward,
        "correct": rollout.correct,
        "left_out": left_out,
    }


def response_text(rollout: Rollout, protocol: Protocol) -> str:
    """The response from `<judge>` on, the forced part included."""
    return protocol.decode(response_ids(rollout, protocol))


def table_row(
    rollout: Rollout, prompts: Sequence[Prompt], protocol: Protocol, origin: Origin, *, left_out: bool
) -> dict[str, object]:
    """What the table of samples shows and the log of rollouts keeps, but for the advantages."""
    prompt, parsed, mode = prompts[rollout.group], rollout.parsed, rollout.parsed.mode
    rewards = [f"{name} {_figure(verdict.value)}" for name, verdict in rollout.verdicts.items()]
    return {
        "question": prompt["messages"][-1]["content"],
        "reference": prompt["reference"],
        "difficulty": prompt["difficulty"],
        "judge": parsed.judge,
        "thinking": parsed.think,
        "answer": response_text(rollout, protocol) if parsed.answer is None else parsed.answer,
        "tokens": len(response_ids(rollout, protocol)),
        "rewards": ", ".join(rewards),
        "mode": "none" if mode is None else f"{mode.value}{' (forced)' if rollout.forced else ''}",
        "correct": rollout.correct,
        "reward": rollout.reward,
        "record": origin | recorded(rollout, prompts[rollout.group]["id"], protocol, left_out=left_out),
    }


def _figure(value: float | None) -> str:
    return "unjudged" if value is None else f"{value:g}"
