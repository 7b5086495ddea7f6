"""Commands that are forked by a process with all imports done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from katlit.commands.recipe.process import Commands, alone
from katlit.commands.recipe.warm import WarmStart
from katlit.errors import UserError

# Imported by the process that forks, in place of torch and the others: what a command is, and what it tells.
STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
from katlit import cli
IMPORTED = os.getpid()
def main(arguments=None):
    told = {
        "words": sys.argv[1:], "program": sys.argv[0], "module": sys.modules["__main__"].__spec__.name,
        "environment": dict(os.environ), "pid": os.getpid(), "imported": IMPORTED, "folder": os.getcwd(),
        "interruptible": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "files": [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
                  if os.path.exists(f"/proc/self/fd/{number}")],
    }
    Path("told").write_text(json.dumps(told))
    time.sleep(float(sys.argv[2]))
    return int(sys.argv[1])
cli.main = main
"""
HOLDER = """
import os
from pathlib import Path
from katlit.commands.recipe.process import Commands, alone
from katlit.commands.recipe.warm import WarmStart
with alone(Path("steps")) as lock, WarmStart(lock, ["stand_in"]) as warm:
    Commands(lock, os.environ, warm).status(["0", "60"])
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stand_in.py").write_text(STAND_IN)


def told() -> dict[str, object]:
    """What the command says of itself, once it is there."""
    path, found = Path("told"), ""
    while not found:
        time.sleep(0.01)
        found = path.read_text() if path.exists() else ""
    path.unlink()
    return dict(json.loads(found))


def test_a_command_is_as_one_of_its_own_and_finds_all_imported() -> None:
    environment = {"PATH": os.environ["PATH"], "MINE": "1"}
    said = []
    with alone(Path("steps")) as lock, WarmStart(lock, ["missing_module", "stand_in"]) as warm:
        commands = Commands(lock, environment, warm)
        for status in (0, 7):
            assert commands.status([str(status), "0"]) == status
            said.append(told())
    assert [each["words"] for each in said] == [["0", "0"], ["7", "0"]]
    for each in said:
        assert each["environment"] == environment
        assert each["module"] == "katlit.cli"  # so does Lightning start the other processes
        assert str(each["program"]).endswith("katlit/cli.py")
        assert each["folder"] == str(Path.cwd())
        assert each["interruptible"]
        assert str(Path("steps/lock").resolve()) in each["files"]  # type: ignore[operator]
        assert not any("socket" in str(file) for file in each["files"])  # type: ignore[attr-defined]
    assert said[0]["imported"] == said[1]["imported"]
    assert len({each["pid"] for each in said} | {said[0]["imported"]}) == 3


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_command_ends_with_run_or_keeps_others_off(ends: signal.Signals) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], start_new_session=True)
    pid = int(str(told()["pid"]))
    if ends == signal.SIGINT:
        os.killpg(holder.pid, ends)  # as a terminal does
    else:
        holder.send_signal(ends)
    holder.wait()
    if ends == signal.SIGKILL:
        with pytest.raises(UserError, match="still works"), alone(Path("steps")):
            pass
        os.kill(pid, signal.SIGKILL)
    free_at = time.monotonic() + 30
    while True:
        try:
            with alone(Path("steps")):
                break
        except UserError:
            assert time.monotonic() < free_at
            time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()


def test_a_signal_that_kills_a_command_is_its_status() -> None:
    with alone(Path("steps")) as lock, WarmStart(lock, ["stand_in"]) as warm:
        command = warm.start(["0", "60"], os.environ)
        told()
        os.kill(command.pid, signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL


def test_where_the_process_that_forks_was_killed_a_line_says_so() -> None:
    with alone(Path("steps")) as lock, WarmStart(lock, ["stand_in"]) as warm:
        command = warm.start(["0", "60"], os.environ)
        parent = int(str(told()["imported"]))
        os.kill(parent, signal.SIGKILL)
        with pytest.raises(
            UserError, match="was killed, perhaps for want of memory; call `katlit run` again"
        ):
            command.wait()
        with pytest.raises(UserError, match="was killed"):
            warm.start(["0", "0"], os.environ)
        os.kill(command.pid, signal.SIGKILL)
