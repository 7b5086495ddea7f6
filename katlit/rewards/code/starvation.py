"""Whether a program that ran out of time by the clock only lacked a processor."""

import os
import time
from pathlib import Path
from typing import NamedTuple

_RUNNABLE_SHARE = 0.75  # of the time by the clock; our choice, as is the next
_OTHERS_SHARE = 0.25


class Times(NamedTuple):
    """How a process spent its time, in seconds.

    Args:
        runnable: That one of its threads was ready to run, and ran or waited for a processor: the longest.
        used: On processors, of all its threads together.
        wall: By the clock, since it was started.
    """

    runnable: float
    used: float
    wall: float


def starved(*times: Times) -> bool:
    """Whether others had the processor while a program, or several that wait for each other, wanted it.

    A program that sleeps, or waits for what never comes, is not starved. Nor can it feign to be: a thread
    that is ready and does not run waits for one that does, and what its own threads take from each other
    is used.
    """
    runnable, used = sum(one.runnable for one in times), sum(one.used for one in times)
    wall = max(one.wall for one in times)
    return runnable >= _RUNNABLE_SHARE * wall and runnable - used >= _OTHERS_SHARE * wall


def times_of(process: int, started: float) -> Times:
    """The times of a process until now; none on processors where it has gone, or the kernel does not count.

    See proc(5): `stat`, and `schedstat` of each thread.

    Args:
        process: Its number.
        started: When, by `time.monotonic`.
    """
    folder = Path(f"/proc/{process}")
    runnable = 0.0
    wall = time.monotonic() - started
    try:
        for thread in (folder / "task").iterdir():
            running, waiting, _ = (thread / "schedstat").read_text(encoding="ascii").split()
            runnable = max(runnable, (int(running) + int(waiting)) / 1e9)
        # The program's name comes first, in brackets, and may hold brackets.
        fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return Times(0.0, 0.0, wall)
    return Times(runnable, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), wall)
