"""How far a long preparation is: a line in the log now and then."""

import logging
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS = 10.0  # between two lines


def reported(items: Sequence[T], work: str) -> Iterator[T]:
    """Hand out items one by one, and log from time to time how many are done, how fast, and the time left.

    Args:
        items: What is worked on between one and the next.
        work: What the lines are about.
    """
    start = shown = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - shown >= SECONDS:
            shown = now
            rate = done / (now - start)
            left = timedelta(seconds=round((len(items) - done) / rate))
            logger.info("%s: %d of %d, %.1f a second, %s left", work, done, len(items), rate, left)
        yield item


class Progress:
    """Says how many replies of a batch are there, and of all that were judged so far which share was kept."""

    def __init__(self) -> None:
        self.judged = 0
        self.kept = 0
        self._work = self._unit = ""
        self._total = self._known = self._done = 0
        self._start = self._shown = 0.0

    def begin(self, work: str, total: int, known: int, unit: str = "replies") -> None:
        """Start to count a batch.

        Args:
            work: What the lines are about.
            total: How many there are.
            known: Those of them that are there already.
            unit: What they are.
        """
        self._unit = unit
        self._work, self._total, self._known, self._done = work, total, known, 0
        self._start = self._shown = time.monotonic()

    def step(self) -> None:
        """Count one that was waited for; log a line if the last one is `SECONDS` ago."""
        self._done += 1
        now = time.monotonic()
        if now - self._shown < SECONDS:
            return
        self._shown = now
        rate = self._done / (now - self._start)
        done = self._known + self._done
        left = timedelta(seconds=round((self._total - done) / rate))
        kept = f", {self.kept / self.judged:.0%} of {self.judged} judged kept" if self.judged else ""
        logger.info(
            "%s: %d of %d %s, %.1f a second%s, %s left",
            self._work, done, self._total, self._unit, rate, kept, left,
        )  # fmt: skip
