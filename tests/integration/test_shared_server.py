"""Step-SRPO on two processes that share one vLLM server, also where it is killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
FILES = ("base", "stage/step_srpo", "strategy/ddp", "strategy/cpu")
pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]


def start(directory: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    pytest.importorskip("vllm", exc_type=ImportError)
    files = [f"configs/{name}.yaml" for name in FILES] + ["tests/stubs/shared_server.yaml"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    settings = [f"--trainer.default_root_dir={directory}"]
    path = os.pathsep.join([f"{ROOT}/tests/stubs", environment["PYTHONPATH"]])
    return subprocess.Popen(
        [sys.executable, *torchrun, "katlit.cli", "fit", *(f"-c={file}" for file in files), *settings],
        cwd=ROOT, env=os.environ | environment | {"PYTHONPATH": path}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def rows(directory: Path) -> list[dict[str, Any]]:
    file = directory / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def servers(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """The HTTP servers that the run has started."""
    module = "vllm.entrypoints.openai.api_server"
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        words = process.cmdline()
        if module in words and "-I" not in words:  # not the guardian
            found.append(process)
    return found


def finish(run: subprocess.Popen[str]) -> None:
    _, errors = run.communicate()
    assert run.returncode == 0, errors[-6000:]


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_share_a_server(
    tmp_path: Path, server_environment: dict[str, str], killed: bool
) -> None:
    run = start(tmp_path, server_environment)
    try:
        while not rows(tmp_path):
            assert run.poll() is None, finish(run)
            time.sleep(0.01)
        (server,) = servers(run)
        if killed:
            server.kill()
        finish(run)
    finally:
        run.kill()
    logged = rows(tmp_path)
    assert [row["step"] for row in logged] == [1, 2, 3]
    assert all(row["rollout/logprob_gap"] < 1e-4 for row in logged)
    assert not psutil.pid_exists(server.pid)
