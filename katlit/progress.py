"""How far a long preparation is: a line in the log now and then."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from lightning.fabric.utilities import rank_zero_only

logger = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS = 10.0  # between two lines
LEAST_FIRST, MOST_FIRST = (
    3,
    64,
)  # replies by which the time left is told; between, a hundredth of those waited for


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


@contextmanager
def told_while(work: str, tell: Callable[[str], object] = logger.info) -> Iterator[None]:
    """Tell from time to time that something is still under way, and in the end that it is done.

    Nothing is told where it is quick, and of several processes only Lightning's first one tells.

    Args:
        work: What the lines are about.
        tell: Takes a line.
    """
    start = time.monotonic()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SECONDS):
            tell(f"{work}: {time.monotonic() - start:.0f} s so far")

    watcher = threading.Thread(target=watch, name="told-while", daemon=True)
    first = rank_zero_only.rank == 0
    if first:
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if first:
            watcher.join()
    if first and (seconds := time.monotonic() - start) >= SECONDS:
        tell(f"{work}: done after {seconds:.0f} s")


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
        kept = f", {self.kept / self.judged:.0%} of {self.judged} judged kept" if self.judged else ""
        logger.info(
            "%s: %d of %d %s, %.1f a second%s, %s",
            self._work, done, self._total, self._unit, rate, kept, self._left(rate),
        )  # fmt: skip

    def _left(self, rate: float) -> str:
        """The time left; the first replies, which come while an engine warms up, tell nothing of it."""
        waited_for = self._total - self._known
        if self._done < min(MOST_FIRST, max(LEAST_FIRST, waited_for // 100), waited_for):
            return "the time left is not known yet"
        return f"{timedelta(seconds=round((waited_for - self._done) / rate))} left"
