"""Dual-regime labels: a teacher votes on each query and answers it in that regime (recipe §2)."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules.dialects.base import Ballot
from katlit.datamodules.labelling.base import Labeller
from katlit.datamodules.labelling.chat_model import ChatModel, Reply
from katlit.datamodules.labelling.json_answers import json_records
from katlit.datamodules.labelling.replies import accept, log_labels, record_of
from katlit.datamodules.labelling.seeds import draws, request_seeds
from katlit.datamodules.labelling.votes import (
    agreeing_reason,
    explore,
    majority,
    subsample_to_share,
    votes_by_mode,
)
from katlit.datamodules.records import Record
from katlit.errors import UserError, require
from katlit.rewards import Reward
from katlit.teacher.by_mode import ByMode, teachers_of
from katlit.text.protocol import Mode

_TEACHER = "data.labeller.teacher"


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class DualRegime(Labeller):
    """Tags queries by a teacher's votes and lets each regime's teacher answer, by rejection sampling.

    Queries without a correct answer within `tries` samples are dropped and counted in the log. Where there is
    no reference the first well-formed answer is kept, unverified.

    Attributes:
        teacher: Directory of the model that votes and answers in both modes. Two are a mapping: `think_off`
            votes, and answers without thinking, `think_on` answers with thinking.
        ballots: Votes of the teacher on whether a query needs reasoning; a tie is think-off.
        tries: Most samples drawn for a query until one is verified.
        epsilon: Share of the queries that get a random regime instead of the voted one, so that each regime
            sees every kind of query (our choice, after stage 2's ε).
        forced: Share of the records whose mode is forced by prefill; the others bring the teacher's reason,
            so that the student goes on well from either (our choice).
        think_share: Share of think-on records to reach by dropping records of the larger class
            (the paper has 0.348); null keeps all.
        json_share: Share of the verified records that come once more, asking for a JSON object, and whose
            answer becomes one, see `MajorityVote`. They are not the teacher's words: only their cross-entropy
            is trained (our choice).
        seed: Seed of all sampling.
    """

    teacher: ByMode[str] | None = None
    ballots: int = 5
    tries: int = 4
    epsilon: float = 0.0
    forced: float = 0.5
    think_share: float | None = None
    json_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse counts and shares that are none, and teachers that are not named by mode."""
        teachers_of(self.teacher, _TEACHER)
        require(self.tries >= 1, "tries", self.tries, "at least 1")
        require(self.ballots >= 0, "ballots", self.ballots, "0 or more")
        for key in ("epsilon", "forced", "json_share"):
            value = getattr(self, key)
            require(0 <= value <= 1, key, value, "a share from 0 to 1")
        if self.think_share is not None:
            require(0 < self.think_share < 1, "think_share", self.think_share, "one between 0 and 1, or null")

    def models(self) -> list[str]:
        """Return the teacher that votes, and the one of the think-on records where it is another."""
        if self.teacher is None:
            raise UserError(f"{_TEACHER}: not given; name the model that labels, or give data.records_file")
        return [teacher.name for teacher in teachers_of(self.teacher, _TEACHER)]

    def settings(self) -> dict[str, Any]:
        """Return all but the names of the teachers."""
        return {name: value for name, value in asdict(self).items() if name != "teacher"}

    def label(self, prompts: Sequence[Prompt], models: Sequence[ChatModel], accuracy: Reward) -> list[Record]:
        """Let the first teacher vote, and each regime's teacher answer, by rejection sampling."""
        start = time.monotonic()
        teacher, *others = models
        second = next(iter(others), None)
        own = list(Mode) if second is None else [Mode.THINK_OFF]
        with teacher:
            ballots, modes = _tag(prompts, teacher, self)
            solutions, drawn = _solve(prompts, modes, own, teacher, accuracy, self)
        if second is not None and Mode.THINK_ON in modes:
            with second:
                answers = _solve(prompts, modes, [Mode.THINK_ON], second, accuracy, self)
            solutions, drawn = solutions | answers[0], drawn + answers[1]
        writers = {Mode.THINK_OFF: teacher, Mode.THINK_ON: second or teacher}
        records = [
            _record(prompt, mode, votes, solutions[index], writers[mode].directory, self)
            for index, (prompt, mode, votes) in enumerate(zip(prompts, modes, ballots, strict=True))
            if index in solutions
        ]
        solved = len(records)
        if self.think_share is not None:
            regimes = [record.regime for record in records]
            kept = subsample_to_share(regimes, self.think_share, self.seed)
            records = [records[index] for index in kept]
        records += json_records(records, accuracy, self.json_share, self.seed)
        log_labels("dual regime", len(prompts), drawn, solved, records, start)
        return records


def _tag(
    prompts: Sequence[Prompt], teacher: ChatModel, settings: DualRegime
) -> tuple[list[list[Ballot]], list[Mode]]:
    """The votes on each query, and the mode that they, or chance, give it."""
    seeds = [request_seeds(settings.seed, "ballot", prompt, settings.ballots) for prompt in prompts]
    ballots = teacher.ballots(prompts, seeds)
    modes = [
        explore(majority([b.mode for b in votes]), settings.epsilon, Random(f"{settings.seed}/{p['id']}"))  # noqa: S311
        for p, votes in zip(prompts, ballots, strict=True)
    ]
    return ballots, modes


def _solve(
    prompts: Sequence[Prompt],
    modes: Sequence[Mode],
    answered: Sequence[Mode],
    teacher: ChatModel,
    accuracy: Reward,
    settings: DualRegime,
) -> tuple[dict[int, Reply], int]:
    """Draw one sample for each unsolved prompt, up to `tries` times; each mode goes its own rounds."""
    solutions: dict[int, Reply] = {}
    drawn = 0
    for mode in answered:
        pending = [index for index, chosen in enumerate(modes) if chosen is mode]
        for attempt in range(settings.tries):
            chosen = [prompts[index] for index in pending]
            seeds = [request_seeds(settings.seed, mode.value, prompt, 1, attempt) for prompt in chosen]
            replies = teacher.sample(chosen, mode.value, seeds)
            drawn += sum(map(len, replies))
            for index, samples in zip(pending, replies, strict=True):
                if accepted := accept(prompts[index], samples, mode, teacher, accuracy):
                    solutions[index] = accepted[0]
            pending = [index for index in pending if index not in solutions]
            if not pending:
                break
    return solutions, drawn


def _record(
    prompt: Prompt,
    mode: Mode,
    votes: list[Ballot],
    solution: Reply,
    teacher: str,
    settings: DualRegime,
) -> Record:
    judge = agreeing_reason(mode, votes)
    record = record_of(prompt, mode, solution, judge, votes_by_mode(votes), teacher, settings.seed)
    return replace(record, forced=draws(settings.seed, "forced", prompt, settings.forced))
