"""The demo's plan, and what it does when something fails; its commands are parsed in tests/integration."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from katlit.commands import demo

ROOT = Path(__file__).parents[3]


def test_the_plan_labels_before_it_fits_and_evaluates_after() -> None:
    plan = demo.commands(3)
    parts = "evaluate label distill evaluate label cold_start evaluate step_srpo evaluate"
    assert [part for part, _ in plan] == parts.split()
    assert all("--seed_everything=3" in command for _, command in plan)
    for (part, command), (_, before) in zip(plan[1:], plan, strict=False):
        if part in ("distill", "cold_start"):  # the same settings, so that fit finds the labels
            assert command[1] == "fit"
            assert [*before[:1], "fit", *before[2:]] == command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    return demo.main()


def test_elsewhere_it_says_where_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch) == 2
    assert "run the demo from the top of the repository" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_failed_command_ends_it_and_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    started: list[Any] = []

    def fail(command: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        started.append((command, settings["env"]["KATLIT_PARENT_RUN_ID"]))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(demo.subprocess, "run", fail)
    assert run(monkeypatch, "--seed", "5") == 2
    shown = capsys.readouterr()
    assert "$ katlit test -c base.yaml" in shown.out
    assert "failed with status 3" in shown.err
    ((command, run_id),) = started
    assert command[:3] == [sys.executable, "-m", "katlit.cli"]
    stored = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db").get_run(run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["seed"] == "5"
