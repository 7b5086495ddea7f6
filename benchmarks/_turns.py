"""Contenders in processes of their own that run in turns; no benchmark by itself.

A process keeps its inputs between turns. Of each turn it reports the seconds, and the peak of its resident
memory above what it had before the turn.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

THREADS = 2


def resident(field: str = "VmRSS") -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at the peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition(f"{field}:")[2].split()[0])


class Turn(NamedTuple):
    """One turn of a contender."""

    before: int  # bytes of resident memory
    started: float


def next_turn(before: int | None = None) -> Turn | None:
    """Wait for a line of standard input; None where there are no more.

    Args:
        before: What the peak of memory is counted from; what is resident now if not given.
    """
    if not sys.stdin.readline():
        return None
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
    return Turn(resident() if before is None else before, time.perf_counter())


def report(turn: Turn) -> None:
    """Write what the turn needed to standard output."""
    seconds = time.perf_counter() - turn.started
    print(json.dumps({"seconds": seconds, "bytes": resident("VmHWM") - turn.before}), flush=True)


def serve(action: Callable[[], object]) -> None:
    """Run the action once a turn; to be called in a contender's process."""
    while turn := next_turn():
        action()
        report(turn)


def run_in_turns(script: str, contenders: list[str], turns: int, *words: str) -> dict[str, dict[str, float]]:
    """Start `script contender words…` for each contender: a first turn, and so many after it.

    Seconds are the median of the later turns (of the first one where there are none), bytes those of the turn
    in which they were most.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    environment = (
        os.environ | threads | {"OMP_WAIT_POLICY": "PASSIVE"}
    )  # who waits leaves the cores to others
    workers = {
        name: subprocess.Popen(  # noqa: S603
            [sys.executable, script, name, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for name in contenders
    }  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for _ in range(1 + turns):
        for name, worker in workers.items():
            assert worker.stdin is not None  # noqa: S101
            assert worker.stdout is not None  # noqa: S101
            worker.stdin.write("\n")
            worker.stdin.flush()
            # Libraries write there too.
            line = next(line for line in worker.stdout if line.startswith('{"seconds"'))
            found[name].append(json.loads(line))
    for worker in workers.values():
        worker.communicate()
    return {
        name: {
            "seconds": statistics.median(turn["seconds"] for turn in each[1:] or each),
            "bytes": max(turn["bytes"] for turn in each),
        }
        for name, each in found.items()
    }
