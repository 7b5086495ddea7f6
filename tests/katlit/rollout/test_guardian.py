"""Nothing of a guarded command stays behind, whoever ends first."""

import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from katlit.rollout import guardian

# A command with a child, both of which ignore SIGTERM where the first argument says so; prints both ids.
COMMAND = """
import os, signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def start(kind: str, grace: float = 0.5) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    command = [sys.executable, "-I", guardian.__file__, str(grace), sys.executable, "-c", COMMAND, kind]
    guarded = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    numbers = guarded.stdout.readline().split()
    return guarded, [psutil.Process(int(number)) for number in numbers]


def close_input(guarded: subprocess.Popen[str], processes: list[psutil.Process]) -> None:
    guarded.stdin.close()


def kill_command(guarded: subprocess.Popen[str], processes: list[psutil.Process]) -> None:
    processes[0].kill()


@pytest.mark.parametrize("kind", ["willing", "stubborn"])
@pytest.mark.parametrize("end", [close_input, kill_command])
def test_the_command_and_its_children_end_together(kind: str, end: Callable[..., None]) -> None:
    guarded, processes = start(kind)
    started = time.monotonic()
    end(guarded, processes)
    guarded.wait(timeout=5)
    assert time.monotonic() - started < 3
    _, alive = psutil.wait_procs(processes, timeout=2)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    guarded.stdout.close()
    guarded.stdin.close()
