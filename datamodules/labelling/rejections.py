"""Why replies of a model were not kept: counted by reason, and some of each to look at."""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import Record
from katlit.errors import UserError
from katlit.text.printable import escaped
from katlit.text.protocol import Mode

logger = logging.getLogger(__name__)

_KEPT = 5  # replies of each reason and mode


class Reason(StrEnum):
    """Why a reply was not kept."""

    TRUNCATED = "truncated"
    MODE = "mode"
    MALFORMED = "malformed"
    WRONG = "wrong"
    UNJUDGED = "unjudged"
    LANGUAGE = "language"
    CONTEXT = "context"
    SCORE = "score"
    UNREAD = "unread"
    UNTAGGED = "untagged"


_WORDS: dict[Reason | tuple[Reason, Mode], str] = {
    (Reason.MODE, Mode.THINK_ON): "did not think although asked to; name a model that thinks",
    (
        Reason.MODE,
        Mode.THINK_OFF,
    ): "thought although asked not to; name a model that can answer directly",
    Reason.TRUNCATED: "were cut; raise sampling.max_tokens",
    Reason.MALFORMED: "had no answer, or were not well formed; read some of them",
    Reason.WRONG: "were wrong; check references and verifier, or raise the labeller's tries or samples",
    Reason.UNJUDGED: "could not be judged; read why, and mend the verifier",
    Reason.LANGUAGE: "were in another script than the question; set same_script: false if they are to be",
    Reason.CONTEXT: "spoke of what no student sees, such as the draft; change the thinker's template",
    Reason.SCORE: "were sent back by the critic; lower approve, raise rounds, or look at the rubric",
    Reason.UNREAD: "had no score to read; raise the critic's max_tokens, or name another model for it",
    Reason.UNTAGGED: "had no tags to read; raise the tagger's max_tokens, or name another model for it",
}


class Rejections:
    """What was not kept of the replies of one model.

    Args:
        model: The model that wrote them.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.counts: Counter[tuple[Reason, Mode]] = Counter()
        self.rows: list[dict[str, Any]] = []
        self._short: dict[str, set[str]] = defaultdict(set)  # queries with a request that got no reply
        self._answered: dict[str, set[str]] = defaultdict(set)  # queries that got one

    def count_replies(self, work: str, prompt: str, asked: int, got: int) -> None:
        """Count what a model did not reply to.

        Args:
            work: What was asked for.
            prompt: Number of the prompt.
            asked: Its requests.
            got: Replies to them.
        """
        if got < asked:
            self._short[work].add(prompt)
        if got:
            self._answered[work].add(prompt)

    def losses(self) -> str:
        """Return, in words, of how many queries replies are missing; nothing where none are."""
        return ", ".join(
            f"{work} of {len(short)} queries ({len(short - self._answered[work])} got none)"
            for work, short in self._short.items()
        )

    def add(self, reason: Reason, mode: Mode, prompt: str, why: str, reply: str) -> None:
        """Count a reply, and keep it if it is one of the first.

        Args:
            reason: Why it is not kept.
            mode: The mode that was asked for.
            prompt: Number of the prompt.
            why: What is wrong with it, in more words.
            reply: What the model wrote.
        """
        self.counts[reason, mode] += 1
        if self.counts[reason, mode] <= _KEPT:
            self.rows.append(
                {
                    "reason": reason.value, "asked": mode.value, "why": escaped(why), "prompt": prompt,
                    "model": self.model, "reply": escaped(reply),
                }
            )  # fmt: skip


def report(found: Sequence[Rejections], records: Sequence[Record], prompts: int, path: Path) -> None:
    """Log what was rejected, keep some of it beside the records, and refuse labels without a record.

    Args:
        found: Rejections of each model.
        records: What was kept.
        prompts: Number of the queries.
        path: File of the records.

    Raises:
        UserError: where no record was kept; names the most frequent reason.
    """
    counts = sum((rejections.counts for rejections in found), Counter[tuple[Reason, Mode]]())
    seen = ""
    if counts:
        file = path.with_name(f"rejected-{path.name}")
        write_rows(file, (row for rejections in found for row in rejections.rows))
        seen = f"; some of them are in {file}"
        logger.info("labels: %d replies rejected: %s%s", counts.total(), _listed(counts), seen)
    for rejections in found:
        if lost := rejections.losses():
            logger.warning("labels: replies that %s did not give: %s", rejections.model, lost)
    if not records:
        raise UserError(f"{path.name}: labelling kept no record of {prompts} prompts; {_blame(counts)}{seen}")
    for mode in Mode:
        if all(record.regime is not mode for record in records):
            told = _listed(_of(counts, mode)) or "none, no query was to be answered so"
            logger.warning(
                "labels: NO think-%s record among %d, so no student learns this mode from them; rejected: %s",
                mode.value, len(records), told,
            )  # fmt: skip


def _listed(counts: Counter[tuple[Reason, Mode]]) -> str:
    return ", ".join(f"{count} think-{mode.value} {reason}" for (reason, mode), count in counts.most_common())


def _of(counts: Counter[tuple[Reason, Mode]], mode: Mode) -> Counter[tuple[Reason, Mode]]:
    return Counter({key: count for key, count in counts.items() if key[1] is mode})


def _blame(counts: Counter[tuple[Reason, Mode]]) -> str:
    """The most frequent reason, and what to do."""
    if not counts:
        return "nor was a reply rejected; raise engine.max_context if the prompts do not fit it"
    ((reason, mode), count), *_ = counts.most_common(1)
    words = _WORDS.get((reason, mode)) or _WORDS[reason]
    return f"{count} of {counts.total()} rejected replies {words}"
