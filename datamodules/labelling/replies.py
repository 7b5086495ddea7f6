"""What becomes of a model's replies (recipe §2 and §4): accepted, made into records, counted in the log."""

import logging
import time
from collections.abc import Sequence

from katlit.batch import Prompt
from katlit.datamodules.labelling.chat_model import Reply
from katlit.datamodules.records import Record
from katlit.rewards import Reward, Sample, verdicts_of
from katlit.text.protocol import Mode

logger = logging.getLogger(__name__)


def accept(prompt: Prompt, replies: Sequence[Reply], mode: Mode, accuracy: Reward) -> list[Reply]:
    """Keep what is well formed, in the mode that was asked for, and correct where that can be told."""
    formed = [reply for reply in replies if reply.parsed.valid and reply.parsed.mode is mode]
    if not prompt["reference"]:
        return formed
    samples = [Sample(prompt, reply.parsed, reply.truncated, tokens=reply.tokens) for reply in formed]
    verdicts = verdicts_of(accuracy, samples)
    return [reply for reply, verdict in zip(formed, verdicts, strict=True) if (verdict.value or 0) >= 1]


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
