"""What both ways of labelling share (recipe §2 and §4): seeds, verification, and records."""

import hashlib
import logging
import time
from collections.abc import Sequence
from random import Random

from katlit.batch import Prompt
from katlit.datamodules.dialects.dialects import Ballot
from katlit.datamodules.labelling.chat_model import Reply
from katlit.datamodules.records import Record
from katlit.rewards import Reward, Sample, verdicts_of
from katlit.text.protocol import Mode

logger = logging.getLogger(__name__)

DEFAULT_JUDGES = {
    Mode.THINK_ON: "This needs several steps of reasoning.",
    Mode.THINK_OFF: "This can be answered directly.",
}


def request_seeds(seed: int, purpose: str, prompt: Prompt, count: int, first: int = 0) -> list[int]:
    """Derive the seeds of a prompt's requests; they do not depend on the prompts beside it."""
    return [
        int.from_bytes(
            hashlib.sha256(f"{seed}/{purpose}/{prompt['id']}/{index}".encode()).digest()[:4], "big"
        )
        % 2**31
        for index in range(first, first + count)
    ]


def draws(seed: int, purpose: str, prompt: Prompt, share: float) -> bool:
    """Whether a prompt is one of a random share; the answer never changes."""
    return Random(f"{seed}/{purpose}/{prompt['id']}").random() < share  # noqa: S311 (reproducible labels)


def accept(prompt: Prompt, replies: Sequence[Reply], mode: Mode, accuracy: Reward) -> list[Reply]:
    """Keep what is well formed, in the mode that was asked for, and correct where that can be told."""
    formed = [reply for reply in replies if reply.parsed.valid and reply.parsed.mode is mode]
    if not prompt["reference"]:
        return formed
    verdicts = verdicts_of(accuracy, [Sample(prompt, reply.parsed, reply.truncated) for reply in formed])
    return [reply for reply, verdict in zip(formed, verdicts, strict=True) if (verdict.value or 0) >= 1]


def agreeing_reason(mode: Mode, ballots: Sequence[Ballot], judges: dict[Mode, str] = DEFAULT_JUDGES) -> str:
    """Return the first reason given for this mode, else the default."""
    return next((ballot.reason for ballot in ballots if ballot.mode is mode and ballot.reason), judges[mode])


def votes_by_mode(ballots: Sequence[Ballot]) -> dict[str, int]:
    """Count the ballots for each mode."""
    return {mode.value: sum(ballot.mode is mode for ballot in ballots) for mode in Mode}


def record_of(
    prompt: Prompt,
    mode: Mode,
    reply: Reply,
    judge: str,
    votes: dict[str, int],
    teacher: str,
    seed: int,
) -> Record:
    """Make a record of an accepted reply."""
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


def log_labels(
    kind: str, prompts: int, drawn: int, solved: int, records: Sequence[Record], start: float
) -> None:
    """Say what was asked, drawn, solved and kept, and how long it took since `start`."""
    share = sum(record.regime is Mode.THINK_ON for record in records) / max(len(records), 1)
    logger.info(
        "%s labels: %d prompts, %d samples, %d unsolved, %d records kept, think share %.3f, %.1f s",
        kind, prompts, drawn, prompts - solved, len(records), share, time.monotonic() - start,
    )  # fmt: skip
