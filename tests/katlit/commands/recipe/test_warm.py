"""Commands that are forked by a process with all imports done."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from katlit.commands.recipe import warm as module
from katlit.commands.recipe.process import Commands, alone
from katlit.commands.recipe.warm import WarmStart, is_alive, is_possible
from katlit.errors import UserError

# Imported by the process that forks, in place of torch and the others: what a command is, and what it tells.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
from katlit import cli
IMPORTED = os.getpid()
Path("importing").write_text(str(os.getpid()))
time.sleep(float(os.environ.get("IMPORTS", "0")))
def main(arguments=None):
    told = {
        "words": sys.argv[1:], "program": sys.argv[0], "module": sys.modules["__main__"].__spec__.name,
        "environment": dict(os.environ), "pid": os.getpid(), "imported": IMPORTED, "folder": os.getcwd(),
        "signals": [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)],
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "path": sys.path,
        "files": [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
                  if os.path.exists(f"/proc/self/fd/{number}")],
    }
    Path("told.part").write_text(json.dumps(told))
    Path("told.part").rename("told")
    time.sleep(float(sys.argv[3]))
    return int(sys.argv[2])
cli.main = main
"""
HOLDER = """
import os, sys
from pathlib import Path
from katlit.commands.recipe.process import Commands, alone
from katlit.commands.recipe.warm import WarmStart
try:
    with alone(Path("steps")) as lock, WarmStart(lock, ["stand_in"]) as warm:
        Commands(lock, os.environ, warm).status(["fit", "0", "60"])
except KeyboardInterrupt:
    sys.exit(130)
"""
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("stand_in.py").write_text(STAND_IN)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` has it ignored
    yield
    signal.signal(signal.SIGINT, before)


def holder() -> "subprocess.Popen[bytes]":
    """A `katlit run`, in a group of its own as in a terminal."""
    return subprocess.Popen([sys.executable, "-c", HOLDER], start_new_session=True)


def waited_for(name: str) -> str:
    """What a file says, once it is there."""
    path, latest = Path(name), time.monotonic() + 60
    while not path.exists() or not (found := path.read_text()):
        assert time.monotonic() < latest
        time.sleep(0.01)
    path.unlink()
    return found


def told() -> dict[str, Any]:
    """What the command says of itself."""
    return dict(json.loads(waited_for("told")))


def assert_free() -> None:
    """Nothing holds the lock any more, or soon nothing will."""
    latest = time.monotonic() + 30
    while True:
        try:
            with alone(Path("steps")):
                return
        except UserError:
            assert time.monotonic() < latest
            time.sleep(0.01)


def test_a_command_is_as_one_of_its_own_and_finds_all_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"PATH": os.environ["PATH"], "MINE": "1"}
    monkeypatch.setenv("PYTHONPATH", ".")
    said = []
    with alone(Path("steps")) as lock, WarmStart(lock, ["missing_module", "stand_in"]) as warm:
        commands = Commands(lock, environment, warm)
        for status in (0, 7):
            assert commands.status(["fit", str(status), "0"]) == status
            said.append(told())
    assert [each["words"][1] for each in said] == ["0", "7"]
    code = "import json, sys; print(json.dumps(sys.path))"
    fresh = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    for each in said:
        assert each["environment"] == environment
        assert each["module"] == "katlit.cli"  # so does Lightning start the other processes
        assert str(each["program"]).endswith("katlit/cli.py")
        assert each["folder"] == str(Path.cwd())
        assert each["path"][1:] == fresh[1:]  # PYTHONPATH where Python has it
        assert "default_int_handler" in each["signals"][0]
        assert each["signals"][1] == str(signal.SIG_DFL)
        assert each["blocked"] == 0
        assert str(Path("steps/lock").resolve()) in each["files"]
        assert not any("socket" in str(file) for file in each["files"])
    assert said[0]["imported"] == said[1]["imported"]
    assert len({each["pid"] for each in said} | {said[0]["imported"]}) == 3


def test_a_report_alone_imports_nothing_beforehand(tmp_path: Path) -> None:
    with alone(Path("steps")) as lock, WarmStart(lock, ["stand_in"]) as warm:
        assert Commands(lock, os.environ, warm).status(["report", "--help"]) == 0
        assert not warm.is_running
    assert not (tmp_path / "importing").exists()


@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("ends", STATUS)
def test_a_command_ends_with_run_or_keeps_others_off(ends: signal.Signals, whole_group: bool) -> None:
    run = holder()
    pid = told()["pid"]
    os.killpg(run.pid, ends) if whole_group else run.send_signal(ends)
    if ends == signal.SIGINT and not whole_group:
        os.kill(pid, ends)  # without a terminal nobody tells the command
    assert run.wait() == STATUS[ends]
    if ends == signal.SIGKILL and not whole_group:
        with pytest.raises(UserError, match="still works"), alone(Path("steps")):
            pass
        os.kill(pid, signal.SIGKILL)
    assert_free()
    latest = time.monotonic() + 30  # a lock is free a little before its holder's end
    while is_alive(pid):
        assert time.monotonic() < latest
        time.sleep(0.01)


@pytest.mark.parametrize("ends", STATUS)
def test_who_is_ended_while_it_imports_starts_nothing(
    ends: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORTS", "1")
    run = holder()
    waited_for("importing")
    run.send_signal(ends)
    assert run.wait() == STATUS[ends]
    assert_free()
    assert not Path("told").exists()


def test_what_is_ignored_stays_ignored() -> None:
    """As in a script that goes on with `&`."""
    run = subprocess.Popen(
        [sys.executable, "-c", HOLDER], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    said = told()
    assert said["signals"][0] == str(signal.SIG_IGN)
    run.terminate()
    assert run.wait() == STATUS[signal.SIGTERM]


def test_a_signal_that_kills_a_command_is_its_status() -> None:
    with alone(Path("steps")) as lock, WarmStart(lock, ["stand_in"]) as warm:
        command = warm.start(["fit", "0", "60"], os.environ)
        os.kill(told()["pid"], signal.SIGKILL)
        assert command.wait() == command.wait() == -signal.SIGKILL


def test_where_the_process_that_forks_was_killed_the_command_ends_too() -> None:
    with alone(Path("steps")) as lock, WarmStart(lock, ["stand_in"]) as warm:
        command = warm.start(["fit", "0", "60"], os.environ)
        said = told()
        os.kill(said["imported"], signal.SIGKILL)
        with pytest.raises(UserError, match="has ended, perhaps for want of memory; call `katlit run`"):
            command.wait()
        assert not is_alive(said["pid"])
        with pytest.raises(UserError, match="has ended"):
            warm.start(["fit", "0", "0"], os.environ).wait()


def test_no_fork_beside_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_GPUS", (str(tmp_path / "gpu"),))
    assert is_possible() == (sys.platform == "linux")
    (tmp_path / "gpu").touch()
    assert not is_possible()
