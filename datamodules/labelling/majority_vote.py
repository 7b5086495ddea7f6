"""Majority-vote labels: a student's own pass rates in both modes choose the mode of a query (recipe §4)."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules.dialects.base import Ballot
from katlit.datamodules.labelling.base import Labeller
from katlit.datamodules.labelling.chat_model import ChatModel, Reply
from katlit.datamodules.labelling.intents import Intent, draw_intent, express
from katlit.datamodules.labelling.json_answers import json_records
from katlit.datamodules.labelling.replies import accept, log_labels, record_of
from katlit.datamodules.labelling.seeds import draws, request_seeds
from katlit.datamodules.labelling.votes import (
    DEFAULT_JUDGES,
    agreeing_reason,
    explore,
    majority,
    pass_rate,
    shortest,
    vote_by_pass_rate,
    votes_by_mode,
)
from katlit.datamodules.records import Record
from katlit.errors import require
from katlit.rewards import Reward
from katlit.text.protocol import FORCED_JUDGES, Mode


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class MajorityVote(Labeller):
    """Labels queries by a student's pass rates in both modes and keeps its shortest correct response.

    A wish for a mode is expressed only where the student has a correct response in that mode. Queries without
    a correct response in the chosen mode are dropped and counted in the log.

    Attributes:
        student: Directory of the model that will be trained on the labels.
        judge_writer: Directory of a strong model, such as the teacher; its agreeing reason becomes the judge
            text, and its votes label the queries without a reference; without it those are think-off.
        judge_on: Judge text of a think-on record where no ballot agrees.
        judge_off: Judge text of a think-off record where no ballot agrees.
        samples: Samples in each mode, N.
        delta: Think only if it raises the pass rate by more than this, δ.
        epsilon: Share of the queries that get a random mode.
        forced: Share of the queries that add a record whose mode is forced by prefill, so that forcing a mode
            still works as well as stage 1 left it (our choice); either mode alike, and only where the student
            has a correct response in it.
        ballots: Votes of the judge writer: the source of judge texts, and of labels without a reference.
        intents: Share of the queries with an explicit wish for a mode, which overrides the vote.
        json_share: Share of the verified records that come once more, asking for a JSON object, and whose
            answer becomes one: {"answer": 12}. A model that never wrote an object answers wrongly where a
            server's grammar makes it write one (our choice).
        seed: Seed of all sampling.
    """

    student: str
    judge_writer: str | None = None
    judge_on: str = DEFAULT_JUDGES[Mode.THINK_ON]
    judge_off: str = DEFAULT_JUDGES[Mode.THINK_OFF]
    samples: int = 4
    delta: float = 0.0
    epsilon: float = 0.01
    forced: float = 0.2
    ballots: int = 3
    intents: float = 0.1
    json_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse counts and shares that are none."""
        require(self.samples >= 1, "samples", self.samples, "at least 1")
        require(self.ballots >= 0, "ballots", self.ballots, "0 or more")
        for key in ("epsilon", "forced", "intents", "json_share"):
            value = getattr(self, key)
            require(0 <= value <= 1, key, value, "a share from 0 to 1")

    def models(self) -> list[str]:
        """Return the student, and the judge writer, if any."""
        return [self.student] if self.judge_writer is None else [self.student, self.judge_writer]

    def settings(self) -> dict[str, Any]:
        """Return all but the names of the models."""
        return {
            name: value for name, value in asdict(self).items() if name not in ("student", "judge_writer")
        }

    def check(self, prompts: Sequence[Prompt], models: Sequence[ChatModel]) -> None:
        """See `Labeller`; the judge writer only votes."""
        models[0].check(prompts)

    def label(self, prompts: Sequence[Prompt], models: Sequence[ChatModel], accuracy: Reward) -> list[Record]:
        """Let the judge writer vote, whose first ballots may be unreadable; then sample the student."""
        start = time.monotonic()
        student, *writers = models
        ballots = _write_judges(prompts, next(iter(writers), None), self)
        with student:
            samples = {mode: _both_modes(prompts, student, mode, self) for mode in Mode}
        judges = {Mode.THINK_ON: self.judge_on, Mode.THINK_OFF: self.judge_off}
        records: list[Record] = []
        forced: list[Record] = []
        for index, prompt in enumerate(prompts):
            accepted = {mode: accept(prompt, samples[mode][index], mode, student, accuracy) for mode in Mode}
            drawn = {mode: len(samples[mode][index]) for mode in Mode}
            record = _vote(prompt, accepted, drawn, ballots[index], judges, self, student.directory)
            if record is not None:
                records.append(record)
            forced += _forced_records(prompt, accepted, ballots[index], self, student.directory)
        solved = len(records)
        records += forced
        records += json_records(records, accuracy, self.json_share, self.seed)
        total = sum(len(replies) for mode in Mode for replies in samples[mode])
        log_labels("majority vote", len(prompts), total, solved, records, start)
        return records


def _both_modes(
    prompts: Sequence[Prompt], student: ChatModel, mode: Mode, settings: MajorityVote
) -> list[list[Reply]]:
    seeds = [request_seeds(settings.seed, mode.value, prompt, settings.samples) for prompt in prompts]
    return student.sample(prompts, mode.value, seeds)


def _write_judges(
    prompts: Sequence[Prompt], writer: ChatModel | None, settings: MajorityVote
) -> list[list[Ballot]]:
    if writer is None:
        return [[] for _ in prompts]
    seeds = [request_seeds(settings.seed, "ballot", prompt, settings.ballots) for prompt in prompts]
    with writer:
        return writer.ballots(prompts, seeds)


def _vote(
    prompt: Prompt,
    accepted: dict[Mode, list[Reply]],
    drawn: dict[Mode, int],
    ballots: list[Ballot],
    judges: dict[Mode, str],
    settings: MajorityVote,
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
    return (
        {mode.value: len(accepted[mode]) for mode in Mode} if prompt["reference"] else votes_by_mode(ballots)
    )


def _forced_records(
    prompt: Prompt,
    accepted: dict[Mode, list[Reply]],
    ballots: list[Ballot],
    settings: MajorityVote,
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
