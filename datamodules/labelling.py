"""Labels from a model's own samples: it is really asked, verified and voted on (recipe §2 and §4)."""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from datamodules.chat_model import ChatModel, Reply
from datamodules.dialects import Ballot
from datamodules.intents import Intent, draw_intent, express
from datamodules.records import Record
from datamodules.tagging import majority, subsample_to_share
from datamodules.voting import explore, pass_rate, shortest, vote_by_pass_rate
from katlit.batch import Prompt
from katlit.protocol import FORCED_JUDGES, Mode
from katlit.rewards import Reward, Sample

logger = logging.getLogger(__name__)

DEFAULT_JUDGES = {
    Mode.THINK_ON: "This needs several steps of reasoning.",
    Mode.THINK_OFF: "This can be answered directly.",
}


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class DualRegimeSettings:
    """How a teacher labels dual-regime data.

    Attributes:
        ballots: Votes of the teacher on whether a query needs reasoning; a tie is think-off.
        tries: Most samples drawn for a query until one is verified.
        epsilon: Share of the queries that get a random regime instead of the voted one, so that each regime
            sees every kind of query (our choice, after stage 2's ε).
        think_share: Share of think-on records to reach by dropping records of the larger class
            (the paper has 0.348); null keeps all.
        seed: Seed of all sampling.
    """

    ballots: int = 5
    tries: int = 4
    epsilon: float = 0.0
    think_share: float | None = None
    seed: int = 0


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class VoteSettings:
    """How a student's own samples label its data.

    Attributes:
        samples: Samples in each mode, N.
        delta: Think only if it raises the pass rate by more than this, δ.
        epsilon: Share of the queries that get a random mode.
        ballots: Votes of the judge writer: the source of judge texts, and of labels without a reference.
        intents: Share of the queries with an explicit wish for a mode, which overrides the vote.
        seed: Seed of all sampling.
    """

    samples: int = 4
    delta: float = 0.0
    epsilon: float = 0.01
    ballots: int = 3
    intents: float = 0.1
    seed: int = 0


def request_seeds(seed: int, purpose: str, prompt: Prompt, count: int, first: int = 0) -> list[int]:
    """Derive the seeds of a prompt's requests; they do not depend on the prompts beside it."""
    return [
        int.from_bytes(
            hashlib.sha256(f"{seed}/{purpose}/{prompt['id']}/{index}".encode()).digest()[:4], "big"
        )
        % 2**31
        for index in range(first, first + count)
    ]


def label_dual_regime(
    prompts: Sequence[Prompt], teacher: ChatModel, accuracy: Reward, settings: DualRegimeSettings
) -> list[Record]:
    """Tag queries by the teacher's votes and let it answer in that mode, by rejection sampling.

    Queries without a correct answer within `tries` samples are dropped and counted in the log. Where there
    is no reference the first well-formed answer is kept, unverified.
    """
    start = time.monotonic()
    seeds = [request_seeds(settings.seed, "ballot", prompt, settings.ballots) for prompt in prompts]
    ballots = teacher.ballots([prompt["messages"] for prompt in prompts], seeds)
    modes = [
        explore(majority([b.mode for b in votes]), settings.epsilon, Random(f"{settings.seed}/{p['id']}"))  # noqa: S311
        for p, votes in zip(prompts, ballots, strict=True)
    ]
    solutions, drawn = _solve(prompts, modes, teacher, accuracy, settings)
    records = [
        _record(prompt, mode, solution, _reason(mode, votes), _tally(votes), teacher.directory, settings.seed)
        for prompt, mode, votes, solution in zip(prompts, modes, ballots, solutions, strict=True)
        if solution is not None
    ]
    solved = len(records)
    if settings.think_share is not None:
        regimes = [record.regime for record in records]
        kept = subsample_to_share(regimes, settings.think_share, settings.seed)
        records = [records[index] for index in kept]
    _log("dual regime", len(prompts), drawn, solved, records, start)
    return records


def _solve(
    prompts: Sequence[Prompt],
    modes: Sequence[Mode],
    teacher: ChatModel,
    accuracy: Reward,
    settings: DualRegimeSettings,
) -> tuple[list[Reply | None], int]:
    """Draw one sample for each unsolved prompt, up to `tries` times; both modes go their own rounds."""
    solutions: list[Reply | None] = [None] * len(prompts)
    drawn = 0
    for mode in Mode:
        pending = [index for index, chosen in enumerate(modes) if chosen is mode]
        for attempt in range(settings.tries):
            chosen = [prompts[index] for index in pending]
            seeds = [request_seeds(settings.seed, mode.value, prompt, 1, attempt) for prompt in chosen]
            replies = teacher.sample([prompt["messages"] for prompt in chosen], mode.value, seeds)
            drawn += sum(map(len, replies))
            for index, samples in zip(pending, replies, strict=True):
                solutions[index] = next(iter(_accepted(prompts[index], samples, mode, accuracy)), None)
            pending = [index for index in pending if solutions[index] is None]
            if not pending:
                break
    return solutions, drawn


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
        settings: N, δ, ε and the share of wishes.
        judge_writer: A strong model whose agreeing reason becomes the judge text, and whose votes label the
            queries without a reference; without it those are labelled think-off.
        default_judges: Judge text by mode where no ballot agrees.
    """
    start = time.monotonic()
    with student:
        samples = {mode: _both_modes(prompts, student, mode, settings) for mode in Mode}
    ballots = _write_judges(prompts, judge_writer, settings)
    judges = DEFAULT_JUDGES | (default_judges or {})
    records = []
    for index, prompt in enumerate(prompts):
        accepted = {mode: _accepted(prompt, samples[mode][index], mode, accuracy) for mode in Mode}
        drawn = {mode: len(samples[mode][index]) for mode in Mode}
        record = _vote(prompt, accepted, drawn, ballots[index], judges, settings, student.directory)
        if record is not None:
            records.append(record)
    total = sum(len(replies) for mode in Mode for replies in samples[mode])
    _log("majority vote", len(prompts), total, len(records), records, start)
    return records


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
    votes = {each.value: len(accepted[each]) for each in Mode} if prompt["reference"] else _tally(ballots)
    record = _record(prompt, mode, best, _reason(mode, ballots, judges), votes, student, settings.seed)
    return record if intent is None else _with_intent(record, intent)


def _with_intent(record: Record, intent: Intent) -> Record:
    return replace(
        record,
        messages=express(record.messages, intent),
        judge=FORCED_JUDGES[intent.mode],
        source=f"{record.source}+intent",
    )


def _accepted(prompt: Prompt, replies: Sequence[Reply], mode: Mode, accuracy: Reward) -> list[Reply]:
    """Keep what is well formed, in the mode that was asked for, and correct where that can be told."""
    formed = [reply for reply in replies if reply.parsed.valid and reply.parsed.mode is mode]
    if not prompt["reference"]:
        return formed
    scores = accuracy([Sample(prompt, reply.parsed, reply.truncated) for reply in formed])
    return [reply for reply, score in zip(formed, scores, strict=True) if score >= 1.0]


def _reason(mode: Mode, ballots: Sequence[Ballot], judges: dict[Mode, str] = DEFAULT_JUDGES) -> str:
    """Return the first reason given for this mode, else the default."""
    return next((ballot.reason for ballot in ballots if ballot.mode is mode and ballot.reason), judges[mode])


def _tally(ballots: Sequence[Ballot]) -> dict[str, int]:
    return {mode.value: sum(ballot.mode is mode for ballot in ballots) for mode in Mode}


def _record(
    prompt: Prompt,
    mode: Mode,
    reply: Reply,
    judge: str,
    votes: dict[str, int],
    teacher: str,
    seed: int,
) -> Record:
    return Record(
        id=prompt["id"],
        messages=prompt["messages"],
        regime=mode,
        judge=judge,
        think=reply.parsed.think,
        answer=reply.parsed.answer or "",
        domain=prompt["domain"],
        difficulty=prompt["difficulty"],
        verifiable=bool(prompt["reference"]),
        reference=prompt["reference"],
        votes=votes,
        verified=bool(prompt["reference"]),  # accepted samples of verifiable queries are correct
        teacher=teacher,
        source=prompt["domain"],
        seed=seed,
        verifier=prompt["verifier"],
        metadata=prompt["metadata"],
    )


def _log(kind: str, prompts: int, drawn: int, solved: int, records: Sequence[Record], start: float) -> None:
    share = sum(record.regime is Mode.THINK_ON for record in records) / max(len(records), 1)
    logger.info(
        "%s labels: %d prompts, %d samples, %d unsolved, %d records kept, think share %.3f, %.1f s",
        kind, prompts, drawn, prompts - solved, len(records), share, time.monotonic() - start,
    )  # fmt: skip
