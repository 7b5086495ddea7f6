"""katlit as `pip install` leaves it: a wheel in an environment of its own, used from a folder elsewhere."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FIT = ["fit", "-c", "base.yaml", "-c", "stage/step_srpo.yaml"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "1", "-m", "katlit.cli"]
REWARD = """
from katlit.rewards import Reward, Verdict

class Short(Reward):
    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, samples):
        return [Verdict(float(len(sample.parsed.answer) < self.limit)) for sample in samples]
"""
SHORT = {"class_path": "my_rewards.Short", "init_args": {"limit": 7}}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, source_tree: Path) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = ["wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words, str(source_tree)], check=True)
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """An environment with the wheel in it and everything else of this one beside it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    install = ["install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (packages,) = folder.glob("lib/*/site-packages")
    # Of a folder that a `.pth` file names no `.pth` is read, so no editable install comes along.
    beside = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "beside.pth").write_text("\n".join(beside))
    return python


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose packages have names of ours and of libraries, and fail where they are imported."""
    for name in ("modules", "datamodules", "configs", "datasets", "omegaconf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('{name} hides something')")
    (tmp_path / "my_rewards.py").write_text(REWARD)
    settings = yaml.safe_load((ROOT / "configs/rollout/hf.yaml").read_text())
    rewards = {"weights": {"accuracy": 1.0, "short": 0.2}, "rewards": {"short": SHORT}}
    composite = {"class_path": "katlit.rewards.CompositeReward", "init_args": rewards}
    settings["trainer"]["callbacks+"][0]["init_args"]["reward"] = composite
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    """What a command prints, in a shell that knows nothing of this tree."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_the_wheel_holds_all_packages_and_settings(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    found = [path.relative_to(ROOT) for path in (ROOT / "katlit").rglob("*.py")]
    for name, kind in (("modules", "py"), ("datamodules", "py"), ("configs", "py"), ("configs", "yaml")):
        found += ["katlit" / path.relative_to(ROOT) for path in (ROOT / name).rglob(f"*.{kind}")]
    assert {name for name in held if ".dist-info/" not in name} == set(map(str, found))


def test_the_wheel_is_what_runs(python: Path, folder: Path) -> None:
    place = run([str(python), "-P", "-c", "import katlit; print(katlit.__file__)"], folder)
    assert Path(place).is_relative_to(python.parents[1])


def test_settings_are_found_anywhere(python: Path, folder: Path) -> None:
    katlit = str(python.parent / "katlit")
    assert sampler_of([katlit, *FIT, "-c", "rollout/vllm.yaml"], folder)["engine"]["class_path"] == (
        "katlit.engines.VLLMEngine"
    )
    listed = run([katlit, "configs"], folder)
    assert "\nrollout/vllm.yaml " in listed
    assert len(listed.splitlines()) == len(list((ROOT / "configs").rglob("*.yaml")))


@pytest.mark.parametrize("launcher", ["script", "torchrun"])
def test_own_classes_in_the_working_directory_are_found(launcher: str, python: Path, folder: Path) -> None:
    katlit = [str(python.parent / "katlit")] if launcher == "script" else [str(python), *TORCHRUN]
    sampler = sampler_of([*katlit, *FIT, "-c", "mine.yaml"], folder)
    assert sampler["reward"]["init_args"]["rewards"] == {"short": SHORT}


def sampler_of(command: list[str], folder: Path) -> dict[str, Any]:
    """The settings of the last callback, as they resolve."""
    settings = yaml.safe_load(run([*command, "--print_config"], folder))
    assert settings["model"]["class_path"] == "katlit.modules.StepSRPO"
    return settings["trainer"]["callbacks"][-1]["init_args"]


def test_own_classes_are_found_in_the_processes_that_lightning_starts(python: Path, folder: Path) -> None:
    for name in ("tinystage.py", "tinystage.yaml"):
        (folder / name).write_text((ROOT / "tests/stubs" / name).read_text())
    files = ["base.yaml", "tinystage.yaml", "strategy/ddp.yaml", "strategy/cpu.yaml", "logger/csv.yaml"]
    words = [word for name in files for word in ("-c", name)]
    run([str(python.parent / "katlit"), "fit", *words, "--trainer.max_steps=1"], folder)
    assert list((folder / "outputs/checkpoints").iterdir())
