"""Majority-vote labels: a student's own pass rates in both modes choose the mode of a query (recipe §4)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from katlit.batch import Prompt
from katlit.datamodules.dialects.dialects import Ballot
from katlit.datamodules.labelling.chat_model import ChatModel, Reply
from katlit.datamodules.labelling.intents import Intent, draw_intent, express
from katlit.datamodules.labelling.shared import (
    DEFAULT_JUDGES,
    accept,
    agreeing_reason,
    draws,
    log_labels,
    record_of,
    request_seeds,
    tally,
)
from katlit.datamodules.labelling.tagging import majority
from katlit.datamodules.labelling.votes import explore, pass_rate, shortest, vote_by_pass_rate
from katlit.datamodules.records import Record
from katlit.errors import require
from katlit.rewards import Reward
from katlit.text.protocol import FORCED_JUDGES, Mode


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class VoteSettings:
    """How a student's own samples label its data.

    Attributes:
        samples: Samples in each mode, N.
        delta: Think only if it raises the pass rate by more than this, δ.
        epsilon: Share of the queries that get a random mode.
        forced: Share of the queries that add a record whose mode is forced by prefill, so that forcing a mode
            still works as well as stage 1 left it (our choice); either mode alike, and only where the student
            has a correct response in it.
        ballots: Votes of the judge writer: the source of judge texts, and of labels without a reference.
        intents: Share of the queries with an explicit wish for a mode, which overrides the vote.
        seed: Seed of all sampling.
    """

    samples: int = 4
    delta: float = 0.0
    epsilon: float = 0.01
    forced: float = 0.2
    ballots: int = 3
    intents: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse counts and shares that are none."""
        require(self.samples >= 1, "samples", self.samples, "at least 1")
        require(self.ballots >= 0, "ballots", self.ballots, "0 or more")
        for key in ("epsilon", "forced", "intents"):
            value = getattr(self, key)
            require(0 <= value <= 1, key, value, "a share from 0 to 1")


def label_by_vote(
    prompts: Sequence[Prompt],
    student: ChatModel,
    accuracy: Reward,
    settings: VoteSettings,
    judge_writer: ChatModel | None = None,
    default_judges: dict[Mode, str] | None = None,
) -> list[Record]:
    """Label queries by the student's pass rates in both modes and keep its shortest correct response.

    Opens `student` and then `judge_writer`, one after the other, so they may share an engine. A wish for a
    mode is expressed only where the student has a correct response in that mode. Queries without a correct
    response in the chosen mode are dropped and counted in the log.

    Args:
        prompts: Queries to label.
        student: The model that will be trained on the labels.
        accuracy: Gives 1 to a correct answer; only asked where there is a reference.
        settings: N, δ, ε, the shares of wishes and of forced modes.
        judge_writer: A strong model whose agreeing reason becomes the judge text, and whose votes label the
            queries without a reference; without it those are labelled think-off.
        default_judges: Judge text by mode where no ballot agrees.
    """
    start = time.monotonic()
    with student:
        samples = {mode: _both_modes(prompts, student, mode, settings) for mode in Mode}
    ballots = _write_judges(prompts, judge_writer, settings)
    judges = DEFAULT_JUDGES | (default_judges or {})
    records: list[Record] = []
    forced: list[Record] = []
    for index, prompt in enumerate(prompts):
        accepted = {mode: accept(prompt, samples[mode][index], mode, accuracy) for mode in Mode}
        drawn = {mode: len(samples[mode][index]) for mode in Mode}
        record = _vote(prompt, accepted, drawn, ballots[index], judges, settings, student.directory)
        if record is not None:
            records.append(record)
        forced += _forced_records(prompt, accepted, ballots[index], settings, student.directory)
    total = sum(len(replies) for mode in Mode for replies in samples[mode])
    log_labels("majority vote", len(prompts), total, len(records), records + forced, start)
    return records + forced


def _both_modes(
    prompts: Sequence[Prompt], student: ChatModel, mode: Mode, settings: VoteSettings
) -> list[list[Reply]]:
    seeds = [request_seeds(settings.seed, mode.value, prompt, settings.samples) for prompt in prompts]
    return student.sample([prompt["messages"] for prompt in prompts], mode.value, seeds)


def _write_judges(
    prompts: Sequence[Prompt], writer: ChatModel | None, settings: VoteSettings
) -> list[list[Ballot]]:
    if writer is None:
        return [[] for _ in prompts]
    seeds = [request_seeds(settings.seed, "ballot", prompt, settings.ballots) for prompt in prompts]
    with writer:
        return writer.ballots([prompt["messages"] for prompt in prompts], seeds)


def _vote(
    prompt: Prompt,
    accepted: dict[Mode, list[Reply]],
    drawn: dict[Mode, int],
    ballots: list[Ballot],
    judges: dict[Mode, str],
    settings: VoteSettings,
    student: str,
) -> Record | None:
    """Choose a mode for one query and take the shortest accepted response; None if there is none."""
    random = Random(f"{settings.seed}/{prompt['id']}")  # noqa: S311 (reproducible labels, not a secret)
    rates = {
        mode: pass_rate([True] * len(accepted[mode]) + [False] * (drawn[mode] - len(accepted[mode])))
        for mode in Mode
    }
    voted = (
        vote_by_pass_rate(rates[Mode.THINK_ON], rates[Mode.THINK_OFF], settings.delta)
        if prompt["reference"]
        else majority([ballot.mode for ballot in ballots])
    )
    mode = explore(voted, settings.epsilon, random)
    intent = draw_intent(settings.intents, random)
    if intent is not None and accepted[intent.mode]:
        mode = intent.mode
    else:
        intent = None
    best = shortest(accepted[mode])
    if best is None:
        return None
    votes = _votes(prompt, accepted, ballots)
    judge = agreeing_reason(mode, ballots, judges)
    record = record_of(prompt, mode, best, judge, votes, student, settings.seed)
    return record if intent is None else _with_intent(record, intent)


def _votes(prompt: Prompt, accepted: dict[Mode, list[Reply]], ballots: list[Ballot]) -> dict[str, int]:
    """What the mode was decided by: correct samples, or ballots where nothing can be verified."""
    return {mode.value: len(accepted[mode]) for mode in Mode} if prompt["reference"] else tally(ballots)


def _forced_records(
    prompt: Prompt,
    accepted: dict[Mode, list[Reply]],
    ballots: list[Ballot],
    settings: VoteSettings,
    student: str,
) -> list[Record]:
    """In a share of the queries, the shortest accepted response of a mode that was forced; at most one."""
    mode = Mode.THINK_ON if draws(settings.seed, "forced mode", prompt, 0.5) else Mode.THINK_OFF
    best = shortest(accepted[mode])
    if best is None or not draws(settings.seed, "forced", prompt, settings.forced):
        return []
    votes = _votes(prompt, accepted, ballots)
    record = record_of(prompt, mode, best, FORCED_JUDGES[mode], votes, student, settings.seed)
    return [replace(record, forced=True)]


def _with_intent(record: Record, intent: Intent) -> Record:
    return replace(
        record,
        messages=express(record.messages, intent),
        judge=FORCED_JUDGES[intent.mode],
        source=f"{record.source}+intent",
    )
