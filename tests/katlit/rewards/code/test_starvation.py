"""Programs that lack a processor, and such as do not want it."""

import os
import select
import subprocess
import sys
import threading
import time

import pytest

from katlit.rewards.code.sandbox import Limits, Sandbox
from katlit.rewards.code.sandboxed_process import Ending, watch
from katlit.rewards.code.starvation import Times, starved, times_of


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([Times(29.0, 3.0, 30.0)], True),  # a tenth of a processor
        ([Times(30.0, 15.0, 30.0)], True),  # a half
        ([Times(0.1, 0.1, 30.0)], False),  # asleep
        ([Times(16.0, 1.0, 30.0)], False),  # asleep for half of the time
        ([Times(30.0, 29.0, 30.0)], False),  # alone, below a limit that is as long
        ([Times(30.0, 30.0, 30.0)], False),
        ([Times(24.0, 48.0, 30.0)], False),  # many threads, on several processors
        ([Times(14.0, 1.0, 30.0), Times(15.0, 2.0, 30.1)], True),  # in turns
        ([Times(2.0, 1.0, 30.0), Times(3.0, 2.0, 30.1)], False),
        ([Times(0.0, 0.0, 30.0)], False),  # not counted
    ],
)
def test_starved_is_who_wanted_a_processor_that_others_had(times: list[Times], expected: bool) -> None:
    assert starved(*times) is expected


def test_times_are_the_kernels() -> None:
    started = time.monotonic()
    release = threading.Event()
    thread = threading.Thread(target=release.wait)  # ready for less than a moment
    thread.start()
    while time.process_time() < 1:
        pass
    found = times_of(os.getpid(), started)
    release.set()
    thread.join()
    assert found.used == pytest.approx(time.process_time(), abs=0.1)
    assert found.runnable >= 0.5
    assert times_of(2**22 + 1, started)[:2] == (0.0, 0.0)  # a number beyond those of processes


def late_ending_of(program: str, *, beside: bool) -> Ending:
    """How a program ends that is late, perhaps on the lowest priority beside another that never rests."""
    sandbox = Sandbox(Limits(cpu_seconds=30, wall_seconds=120.0))
    hog = None
    with sandbox.start(f"print(flush=True)\n{program}", {"__name__": "__main__"}) as process:
        try:
            assert select.select([process._process.stdout], [], [], 120)[0]  # it has begun
            hog = compete(process._process.pid) if beside else None
            process._wall_seconds = 2 * (time.monotonic() - process._started) + 2
            watch(process)
            return process.ending()
        finally:
            if hog is not None:
                hog.kill()
                hog.wait()


def compete(process: int) -> "subprocess.Popen[bytes]":
    processor = {min(os.sched_getaffinity(0))}
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    for one in (process, hog.pid):
        os.sched_setaffinity(one, processor)
    os.setpriority(os.PRIO_PROCESS, process, 19)
    return hog


def test_a_program_that_gets_no_processor_is_starved() -> None:
    ending = late_ending_of("while True: pass", beside=True)
    assert ending.late
    assert starved(ending.times)


def test_a_program_that_sleeps_is_not() -> None:
    ending = late_ending_of("import time\ntime.sleep(99)", beside=False)
    assert ending.late
    assert not starved(ending.times)
