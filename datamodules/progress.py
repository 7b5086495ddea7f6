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
