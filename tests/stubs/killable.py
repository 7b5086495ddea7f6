"""Runs of a small stage 3 that can be killed, on one process or several."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from katlit.callbacks.checkpoint_files import checkpoints

ROOT = Path(__file__).parents[2]
STUBS = f"{ROOT}/tests/stubs"


def start(
    directory: Path, *words: str, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[str]:
    """Start `katlit fit` in a process group of its own, with a checkpoint after each step.

    Lightning itself starts the other processes of a strategy.
    """
    return launch([sys.executable, "-m", "katlit.cli", *fit(directory, *words)], environment)


def fit(directory: Path, *words: str) -> list[str]:
    """The words behind `katlit`."""
    files = ["configs/base.yaml", "configs/stage/step_srpo.yaml", "tests/stubs/resume.yaml"]
    settings = [f"--trainer.default_root_dir={directory}", "--checkpoint.every_n_steps=1"]
    return ["fit", *(word for name in files for word in ("-c", name)), *settings, *words]


def launch(command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a command in a process group of its own."""
    path = os.pathsep.join(filter(None, [STUBS, environment.get("PYTHONPATH")]))
    return subprocess.Popen(
        command,
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment | {"PYTHONPATH": path}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def on_two_processes(strategy: str) -> list[str]:
    """The overlays of a strategy on the CPU."""
    return [f"-c={ROOT}/configs/strategy/{name}.yaml" for name in (strategy, "cpu")]


def finish(run: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for the end, which must have this status; what went to stderr."""
    _, errors = run.communicate()
    assert run.returncode == status, errors[-6000:]
    return errors


def kill(run: subprocess.Popen[str]) -> None:
    """Kill -9 all processes of a run at once."""
    os.killpg(run.pid, signal.SIGKILL)
    finish(run, -signal.SIGKILL)


def rows(directory: Path) -> dict[int, dict[str, Any]]:
    """What was logged of each step, the last time that it ran; without what is measured."""
    found: dict[int, dict[str, Any]] = {}
    file = directory / "log.jsonl"
    for line in file.read_text().splitlines() if file.exists() else []:
        row = json.loads(line)
        measured = {k for k in row if "second" in k or k.startswith("throughput/")}
        found[row["step"]] = {k: v for k, v in row.items() if k not in measured}
    return found


def wait_for(directory: Path, run: subprocess.Popen[str], steps: int) -> None:
    """Until there is a checkpoint of so many steps, or of more."""
    while not any(int(path.name[5:13]) >= steps for path in checkpoints(directory / "checkpoints")):
        assert run.poll() is None, finish(run)
        time.sleep(0.01)
