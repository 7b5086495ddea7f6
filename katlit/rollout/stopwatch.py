"""Where the time before a step goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of named parts.

    Args:
        parts: Their names.
    """

    def __init__(self, *parts: str) -> None:
        self.seconds = dict.fromkeys(parts, 0.0)

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Count the block's seconds towards a part."""
        begin = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begin
