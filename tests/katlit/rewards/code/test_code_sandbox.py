"""The sandbox that programs run in: its limits, its end, its share of the machine, where there is none."""

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import ECHO, QUIET, SQUARE, sample, verdict

from katlit.errors import UserError
from katlit.rewards import CodeReward, Verdict
from katlit.rewards.code import sandbox, sandboxed_process


@pytest.mark.slow
def test_sixty_four_at_once_have_their_time() -> None:
    """All of them run at once, so that each waits much longer than it may compute."""
    program = "n = int(input())\nprint(sum(i % 7 for i in range(10**6)) * 0 + n)"
    reward = CodeReward(cpu_seconds=1, wall_seconds=120.0, workers=64)
    verdicts = reward([sample(ECHO, program)] * 64)
    assert {(verdict.value, verdict.reason) for verdict in verdicts} == {(1.0, "passed 2 tests")}


ORPHAN = """
import sys
from katlit.rewards.code.sandbox import Limits, Sandbox
process = Sandbox(Limits()).start("import time; time.sleep(99)", {})
with process:
    print(process._process.pid, process.scratch, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_program_dies_with_the_trainer() -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with trainer:
        number, scratch = trainer.stdout.readline().split()
        watched = os.pidfd_open(int(number))
        try:
            time.sleep(0.5)  # long enough to have begun
            trainer.kill()
            assert select.select([watched], [], [], 30)[0]
        finally:
            os.close(watched)
            shutil.rmtree(scratch)


def test_removed_files_count_while_they_are_open(tmp_path: Path) -> None:
    def counted(process: int) -> int:
        return sandboxed_process._nameless_bytes(process, given)

    given = (0, 0)
    before = counted(os.getpid())
    with (tmp_path / "named").open("wb") as file:
        file.truncate(1 << 20)
        twice = os.dup(file.fileno())
        assert counted(os.getpid()) == before
        (tmp_path / "named").unlink()
        assert counted(os.getpid()) == before + (1 << 20)
        removed = os.fstat(twice)
        given = removed.st_dev + 1, removed.st_ino  # another file with the same number
        assert counted(os.getpid()) == before + (1 << 20)
        given = removed.st_dev, removed.st_ino
        assert counted(os.getpid()) == before
        given = (0, 0)
        os.close(twice)
    assert counted(os.getpid()) == before


def test_a_sandbox_that_fails_judges_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = CodeReward()
    assert reward([sample(ECHO, "print(input())")])[0].value == 1.0
    monkeypatch.setattr(sandboxed_process, "_PYTHON", ("-c", "1/0"))
    assert reward([sample(ECHO, "print(input())")]) == [
        Verdict(None, "sandbox: the program could not be started (ZeroDivisionError: division by zero)")
    ]
    assert reward([sample(SQUARE, "x = 1")])[0].value is None
    monkeypatch.setattr(sandboxed_process.sys, "executable", "/nowhere/python")
    assert reward([sample(ECHO, "print(input())")]) == [
        Verdict(None, "sandbox: no process could be started (No such file or directory)")
    ]


@pytest.mark.parametrize(
    ("launched", "share"),
    [
        ({}, 96),
        ({"LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "32"}, 12),
        ({"WORLD_SIZE": "2"}, 48),
        ({"LOCAL_WORLD_SIZE": "97"}, 1),
    ],
)
def test_ranks_share_the_processors(
    monkeypatch: pytest.MonkeyPatch, launched: dict[str, str], share: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(96)))
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    reward = CodeReward()  # made before Lightning starts the other ranks
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert reward._free._initial_value == share


def test_a_machine_that_cannot_confine_is_refused_unless_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sandbox.Sandbox, "_missing", lambda self, means: "no such call" * (means == "landlock")
    )
    with pytest.raises(UserError, match=r"lacks landlock \(no such call\).*allow_weaker_sandbox: true"):
        verdict(ECHO, "print(input())")
    with pytest.warns(UserWarning, match=r"the sandbox is weaker without landlock"):
        found = CodeReward(allow_weaker_sandbox=True)([sample(QUIET, "import os\nos.fork()")])
    assert found == [Verdict(0.0, "test 1 of 1: PermissionError: [Errno 1] Operation not permitted")]
