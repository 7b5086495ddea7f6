"""What becomes of a model's replies (recipe §2 and §4): accepted, made into records, counted in the log."""

import logging
import time
from collections.abc import Sequence

from katlit.batch import Prompt
from katlit.datamodules.labelling.chat_model import ChatModel, Reply
from katlit.datamodules.labelling.rejections import Reason
from katlit.datamodules.records import Record
from katlit.rewards import Reward, Sample, verdicts_of
from katlit.text.protocol import Mode

logger = logging.getLogger(__name__)


def accept(
    prompt: Prompt, replies: Sequence[Reply], mode: Mode, model: ChatModel, accuracy: Reward
) -> list[Reply]:
    """Keep what is well formed, in the mode that was asked for, and correct where that can be told.

    The model counts what is not kept.
    """
    accepted = _accepted(prompt, replies, mode, model, accuracy)
    model.progress.judged += len(replies)
    model.progress.kept += len(accepted)
    return accepted


def _accepted(
    prompt: Prompt, replies: Sequence[Reply], mode: Mode, model: ChatModel, accuracy: Reward
) -> list[Reply]:
    formed: list[Reply] = []
    for reply in replies:
        fault = fault_of(reply, mode)
        if fault is None:
            formed.append(reply)
        else:
            empty = "it is empty" if fault is Reason.MALFORMED else ""
            model.reject(reply, fault, mode, prompt, str(reply.parsed.violation or empty))
    if not prompt["reference"].strip():
        return formed
    samples = [Sample(prompt, reply.parsed, reply.truncated, tokens=reply.tokens) for reply in formed]
    accepted: list[Reply] = []
    for reply, verdict in zip(formed, verdicts_of(accuracy, samples), strict=True):
        if verdict.value is not None and verdict.value >= 1:
            accepted.append(reply)
        else:
            reason = Reason.UNJUDGED if verdict.value is None else Reason.WRONG
            model.reject(reply, reason, mode, prompt, verdict.reason)
    return accepted


def fault_of(reply: Reply, mode: Mode) -> Reason | None:
    """What can be told to be wrong with a reply without knowing the answer.

    A thought and an answer without a word are none, although the protocol has room for them.
    """
    if reply.truncated:
        return Reason.TRUNCATED
    parsed = reply.parsed
    found = Mode.THINK_OFF if parsed.valid and not parsed.think.strip() else parsed.mode
    if found not in (mode, None):
        return Reason.MODE
    said = parsed.answer is not None and parsed.answer.strip()
    return None if parsed.valid and found is mode and said else Reason.MALFORMED


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
        tools=prompt.get("tools", []),
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
