"""`katlit run`: what is done again, and what a failure leaves; 320 lines because all share one recipe."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from katlit.cli import main
from katlit.commands.recipe import command
from katlit.commands.recipe.command import REPORT_FILES
from katlit.commands.recipe.process import Commands, alone
from katlit.errors import UserError
from katlit.tracking import delivery, mlflow, parent_run
from katlit.tracking.store import TrackerDownError

RECIPE = """\
name: mine
model: student
evaluate_base: true
output: out
evaluation: {settings: [stage/evaluate.yaml]}
stages:
  distill: {settings: [stage/distill.yaml, own.yaml]}
  cold_start: {settings: [stage/cold_start.yaml], set: {trainer.max_steps: 2}}
"""
NAMES = ["test base", "label distill", "fit distill", "test distill", "label cold_start", "fit cold_start",
         "test cold_start"]  # fmt: skip
END = ["report", "card"]


class Played:
    """Plays the commands: each leaves what it should, some fail."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.words: list[list[str]] = []
        self.parents: set[str] = set()
        self.failing = ""

    def status(self, commands: Commands, words: list[str]) -> int:
        self.words.append(list(words))
        self.parents.add(commands.environment["KATLIT_PARENT_RUN_ID"])
        places = (word.partition("=")[2] for word in words if word.startswith("--trainer.default_root_dir="))
        root = next(map(Path, places), None)
        name = words[0] if root is None else f"{words[0]} {root.name}"
        self.called.append(name)
        if name == self.failing:
            return 3
        self.leave(words[0], root)
        return 0

    def leave(self, command: str, root: Path | None) -> None:
        if command == "report":
            figures = {"headline": {"token_ratio": 0.7, "accuracy_gap": 0.0}}
            for name in REPORT_FILES:
                Path("out", name).write_text(json.dumps(figures))
        elif command == "label":
            Path("out/cache").mkdir(exist_ok=True)
        elif root is not None:
            file = root / ("model/config.json" if command == "fit" else "evaluation.json")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            (root / "checkpoints").mkdir(exist_ok=True)


@pytest.fixture
def commands(tmp_path: Path, new_database: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    shutil.copy(new_database, tmp_path / "outputs/mlflow.db")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "own.yaml").write_text("trainer: {max_steps: 3}\n")
    commands = Played()
    monkeypatch.setattr(Commands, "status", lambda own, words, launch: commands.status(own, words))
    return commands


def katlit(*words: str) -> int:
    return main(["run", "mine.yaml", *words])


def test_a_second_call_repeats_nothing(commands: Played, capsys: pytest.CaptureFixture[str]) -> None:
    assert katlit() == 0
    assert commands.called == NAMES + END
    assert "$ katlit fit -c stage/distill.yaml -c own.yaml --seed_everything=1" in capsys.readouterr().out
    commands.called.clear()
    assert katlit() == 0
    assert commands.called == []
    assert len(commands.parents) == 1
    told = capsys.readouterr().out
    assert "tokens of auto / on: 0.70" in told
    assert "the runs are at http" in told  # no charts: no run has a reward


def test_a_failure_is_gone_on_from(commands: Played, capsys: pytest.CaptureFixture[str]) -> None:
    commands.failing = "fit cold_start"
    assert katlit() == 2
    assert commands.called == NAMES[:6]
    assert "failed with status 3" in capsys.readouterr().err
    client = MlflowClient(f"sqlite:///{Path.cwd()}/outputs/mlflow.db")
    (parent,) = commands.parents
    assert client.get_run(parent).info.status == "FAILED"
    assert client.get_run(parent).data.tags["seed"] == "1"
    tags = [{"mlflow.parentRunId": parent}, {}]  # what `kill -9` has left open, and what is another's
    left = [client.create_run("0", tags=one).info.run_id for one in tags]
    commands.called.clear()
    commands.failing = ""
    assert katlit() == 0
    assert commands.called == NAMES[5:] + END
    assert commands.words[-4][-1] == "--ckpt_path=auto"
    assert commands.parents == {parent}
    assert client.get_run(parent).info.status == "FINISHED"
    assert [client.get_run(run).info.status for run in left] == ["KILLED", "RUNNING"]


def test_a_recipe_goes_on_and_ends_without_its_tracking_server(
    commands: Played,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    commands.failing = "fit cold_start"
    assert katlit() == 2
    commands.failing = ""
    capsys.readouterr()

    def down(uri: str, **_: object) -> None:
        raise TrackerDownError(f"{uri} cannot be reached")

    for module in (command, parent_run, mlflow):
        monkeypatch.setattr(module, "check_tracking", down)
    monkeypatch.setattr(delivery, "client_of", down)
    monkeypatch.setattr(mlflow, "PATIENCE", 0.2)
    assert katlit() == 0
    assert len(commands.parents) == 1
    assert "tokens of auto / on: 0.70" in capsys.readouterr().out
    assert [message.partition("; ")[2][:12] for message in caplog.messages] == [
        "runs of befo", "the run goes", "they are kep",
    ]  # fmt: skip
    (file,) = Path("outputs").glob("*.unsent.jsonl")
    assert [json.loads(line)["kind"] for line in file.read_text().splitlines()] == [
        *["file"] * len(REPORT_FILES), "metrics", "end",
    ]  # fmt: skip
    Path("out/.steps/parent.json").unlink()
    assert katlit() == 2  # a new one is not begun


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("recipe", NAMES[4:]),
        ("settings", NAMES[1:]),
        ("seed", NAMES),
        ("model removed", NAMES[5:]),  # what is made of the new one is made again, too
    ],
)
def test_what_has_changed_is_done_again_with_all_that_follows(
    commands: Played, change: str, again: list[str]
) -> None:
    assert katlit() == 0
    commands.called.clear()
    words: list[str] = []
    if change == "recipe":
        Path("mine.yaml").write_text(RECIPE.replace("max_steps: 2", "max_steps: 4"))
    elif change == "settings":
        Path("own.yaml").write_text("trainer: {max_steps: 4}\n")
    elif change == "seed":
        words = ["--set", "seed=2"]
    else:
        Path("out/cold_start/model/config.json").unlink()
    assert katlit(*words) == 0
    assert commands.called == again + END
    assert not any("--ckpt_path" in word for word in commands.words[-3])
    assert (commands.words[-1][-1] == "--overwrite") == any(name.startswith("fit") for name in again)
    assert len(commands.parents) == (2 if change == "seed" else 1)
    if "fit cold_start" in again:
        assert Path("out/cold_start/aside-1/checkpoints").is_dir()


def test_a_damaged_mark_is_no_mark(commands: Played) -> None:
    assert katlit() == 0
    Path("out/.steps/test-base.json").unlink(missing_ok=True)
    Path("out/.steps/evaluate-base.json").write_text('{"key": ')
    commands.called.clear()
    assert katlit() == 0
    assert commands.called == ["test base", *END]
    assert commands.words[-1][0] == "card"
    assert "--overwrite" not in commands.words[-1]  # the user may have changed it since
    Path("out/.steps/parent.json").write_text("")
    assert katlit() == 0


@pytest.mark.parametrize("name", ["report.json", "pareto.png"])
def test_a_report_without_one_of_its_files_is_written_again(commands: Played, name: str) -> None:
    assert katlit() == 0
    Path("out", name).unlink()
    commands.called.clear()
    assert katlit() == 0
    assert commands.called == END


def test_a_card_that_failed_is_not_overwritten_at_the_next_try(commands: Played) -> None:
    commands.failing = "card"
    assert katlit() == 2
    assert commands.words[-1][-1] == "--overwrite"
    commands.failing = ""
    assert katlit() == 0
    assert commands.called[-4:] == END + END
    assert "--overwrite" not in commands.words[-1]  # the user may have changed it since


@pytest.mark.parametrize("named", ["recipe", "settings", "class"])
def test_data_and_classes_that_have_changed_are_seen(commands: Played, named: str) -> None:
    changing = Path("mine.py" if named == "class" else "questions.jsonl")
    changing.write_text("{}\n")
    if named == "recipe":
        Path("mine.yaml").write_text(RECIPE + "prompts: questions.jsonl\n")
    elif named == "settings":
        Path("own.yaml").write_text("data: {init_args: {prompts: {init_args: {path: questions.jsonl}}}}\n")
    else:
        Path("own.yaml").write_text("model: {init_args: {reward: mine.Reward}}\n")
    assert katlit() == 0
    changing.write_text("{}\n{}\n")
    commands.called.clear()
    assert katlit() == 0
    assert commands.called == NAMES[1:] + END


def test_while_a_command_works_there_no_other_is_started(
    commands: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    with alone(Path("out/.steps")):
        assert katlit() == 2
    assert "still works in out; wait for it" in capsys.readouterr().err
    assert commands.called == []
    assert katlit() == 0


HOLDER = """
import sys
from pathlib import Path
from katlit.commands.recipe import command
from katlit.commands.recipe.command import REPORT_FILES
from katlit.commands.recipe.process import Commands, alone
sys.executable = "{sleeper}"
with alone(Path("steps")) as lock:
    Commands(lock, {{}}).status(["fit"])
"""


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_ends_with_run_or_keeps_others_off(ends: signal.Signals, tmp_path: Path) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    sleeper.chmod(0o755)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER.format(sleeper=sleeper)], cwd=tmp_path)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert holder.poll() is None
        time.sleep(0.01)
    holder.send_signal(ends)
    holder.wait()
    pid = int((tmp_path / "pid").read_text())
    if ends == signal.SIGKILL:
        with pytest.raises(UserError, match="still works"), alone(tmp_path / "steps"):
            pass
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.01)
    with alone(tmp_path / "steps"):
        assert not Path(f"/proc/{pid}").exists()


def test_a_command_is_started_by_what_the_recipe_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = Commands(os.open(tmp_path, os.O_RDONLY), {})
    commands.call(["run", "mine.yaml"], ["echo", "by"])
    assert capfd.readouterr().out.splitlines()[1:] == [
        "$ echo by katlit run mine.yaml", f"by {sys.executable} -m katlit.cli run mine.yaml",
    ]  # fmt: skip
    with pytest.raises(UserError, match="launch: no program 'srunn' here"):
        commands.call(["fit"], ["srunn"])


def test_a_model_that_has_changed_is_seen(commands: Played) -> None:
    Path("student").mkdir()
    Path("student/config.json").write_text("{}")
    assert katlit() == 0
    commands.called.clear()
    Path("student/config.json").write_text('{"a": 1}')
    assert katlit() == 0
    assert commands.called == NAMES + END


def test_a_step_depends_on_what_was_there_when_it_began(commands: Played) -> None:
    """Settings that are changed while an earlier step runs are those that the later one runs with."""
    Path("mine.yaml").write_text(
        RECIPE.replace("[stage/cold_start.yaml]", "[stage/cold_start.yaml, own.yaml]")
    )
    changed = commands.leave

    def leave(command: str, root: Path | None) -> None:
        if root is not None and root.name == "distill" and command == "test":
            Path("own.yaml").write_text("trainer: {max_steps: 5}\n")
        changed(command, root)

    commands.leave = leave  # type: ignore[method-assign]
    Path("mine.yaml").write_text(Path("mine.yaml").read_text().replace("yaml, own.yaml", "yaml", 1))
    assert katlit() == 0
    commands.called.clear()
    commands.leave = changed  # type: ignore[method-assign]
    assert katlit() == 0
    assert commands.called == []
