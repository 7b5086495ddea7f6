"""`katlit run`: what is done again, what is not, and what a failure leaves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from katlit.cli import main
from katlit.commands.recipe import command as run_command

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


class Commands:
    """Plays the commands: each leaves what it should, some fail."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.words: list[list[str]] = []
        self.parents: set[str] = set()
        self.failing = ""

    def __call__(self, program: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        assert program[:3] == [sys.executable, "-m", "katlit.cli"]
        words = program[3:]
        self.words.append(words)
        self.parents.add(settings["env"]["KATLIT_PARENT_RUN_ID"])
        root = next(
            (Path(w.partition("=")[2]) for w in words if w.startswith("--trainer.default_root_dir=")), None
        )
        name = words[0] if root is None else f"{words[0]} {root.name}"
        self.called.append(name)
        if name == self.failing:
            return subprocess.CompletedProcess(program, 3)
        self.leave(words[0], root)
        return subprocess.CompletedProcess(program, 0)

    def leave(self, command: str, root: Path | None) -> None:
        if command == "report":
            figures = {"headline": {"token_ratio": 0.7, "accuracy_gap": 0.0}}
            for name in ("report.json", "report.md", "pareto.png"):
                Path("out", name).write_text(json.dumps(figures))
        elif command == "label":
            Path("out/cache").mkdir(exist_ok=True)
        elif root is not None:
            file = root / ("model/config.json" if command == "fit" else "evaluation.json")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            (root / "checkpoints").mkdir(exist_ok=True)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "mine.yaml").write_text(RECIPE)
    (tmp_path / "own.yaml").write_text("trainer: {max_steps: 3}\n")
    commands = Commands()
    monkeypatch.setattr(run_command.subprocess, "run", commands)
    return commands


def katlit(*words: str) -> int:
    return main(["run", "mine.yaml", *words])


def test_a_second_call_repeats_nothing(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert katlit() == 0
    assert commands.called == NAMES + END
    assert "$ katlit fit -c stage/distill.yaml -c own.yaml --seed_everything=1" in capsys.readouterr().out
    commands.called.clear()
    assert katlit() == 0
    assert commands.called == END
    assert len(commands.parents) == 1


def test_a_failure_is_gone_on_from(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    commands.failing = "fit cold_start"
    assert katlit() == 2
    assert commands.called == NAMES[:6]
    assert "failed with status 3" in capsys.readouterr().err
    client = MlflowClient(f"sqlite:///{Path.cwd()}/outputs/mlflow.db")
    (parent,) = commands.parents
    assert client.get_run(parent).info.status == "FAILED"
    assert client.get_run(parent).data.tags["seed"] == "1"
    commands.called.clear()
    commands.failing = ""
    assert katlit() == 0
    assert commands.called == NAMES[5:] + END
    assert commands.words[-4][-1] == "--ckpt_path=auto"
    assert commands.parents == {parent}
    assert client.get_run(parent).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("recipe", NAMES[4:]),
        ("settings", NAMES[1:]),
        ("seed", NAMES),
        ("model removed", NAMES[5:6]),
    ],
)
def test_what_has_changed_is_done_again_with_all_that_follows(
    commands: Commands, change: str, again: list[str]
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
    if "fit cold_start" in again:
        assert Path("out/cold_start/aside-1/checkpoints").is_dir()


def test_a_damaged_mark_is_no_mark(commands: Commands) -> None:
    assert katlit() == 0
    Path("out/.steps/test-base.json").unlink(missing_ok=True)
    Path("out/.steps/evaluate-base.json").write_text('{"key": ')
    commands.called.clear()
    assert katlit() == 0
    assert commands.called == ["test base", *END]


def test_data_that_has_changed_is_seen(commands: Commands) -> None:
    Path("questions.jsonl").write_text("{}\n")
    Path("mine.yaml").write_text(RECIPE + "prompts: questions.jsonl\n")
    assert katlit() == 0
    Path("questions.jsonl").write_text("{}\n{}\n")
    commands.called.clear()
    assert katlit() == 0
    assert commands.called == NAMES[1:] + END
