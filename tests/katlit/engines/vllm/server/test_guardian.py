"""Nothing of a guarded command stays behind, whoever ends first."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from katlit.engines.vllm.server import guardian

# A command with a child, both of which ignore SIGTERM where the first argument says so; prints both ids.
COMMAND = """
import os, signal, subprocess, sys, time
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def words(kind: str, folder: Path) -> list[str]:
    program = [sys.executable, "-I", guardian.__file__, "0.5", str(folder), str(folder.with_name("scratch"))]
    return [*program, sys.executable, "-c", COMMAND, kind]


def start(kind: str, folder: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    command = words(kind, folder)
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
def test_the_command_and_its_children_end_together(
    kind: str, end: Callable[..., None], tmp_path: Path
) -> None:
    guarded, processes = start(kind, tmp_path)
    started = time.monotonic()
    end(guarded, processes)
    guarded.wait(timeout=30)
    assert time.monotonic() - started < 20  # the command would sleep for ten minutes
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    guarded.stdout.close()
    guarded.stdin.close()
    assert tmp_path.is_dir()


@pytest.mark.parametrize("kind", ["willing", "stubborn"])
def test_the_folders_of_a_starter_that_died_are_removed(kind: str, tmp_path: Path) -> None:
    folder, scratch = tmp_path / "weights", tmp_path / "scratch"
    for made in (folder, scratch):
        made.mkdir()
        (made / "model.safetensors").touch()
    starter = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, "
    starter += "start_new_session=True); time.sleep(600)"
    command = [sys.executable, "-c", starter, *words(kind, folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dies:
        assert dies.stdout.readline()
        dies.kill()
    deadline = time.monotonic() + 30
    while (folder.exists() or scratch.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []
