"""katlit as `pip install katlit` leaves it, without any extra, used from a folder elsewhere."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import environments
import pytest
import yaml
from tinymodel import QWEN, tiny_backbone

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
    """An environment with the wheel in it, and of this one beside it just what the wheel requires."""
    python = environments.empty(tmp_path_factory.mktemp("environment"))
    install = ["install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        lines = opened.read(metadata).decode().partition("\n\n")[0].splitlines()
    wanted = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    environments.link(python, environments.required(wanted))
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
    found = [
        path.relative_to(ROOT) for path in (ROOT / "katlit").rglob("*.*") if path.suffix in (".py", ".jinja")
    ]
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


def test_what_needs_an_extra_says_so(python: Path, folder: Path) -> None:
    katlit, student = str(python.parent / "katlit"), made(folder / "student")
    generated = [
        *FIT, "-c", "rollout/hf.yaml", "-c", "logger/none.yaml", "--trainer.accelerator=cpu",
        f"--model.init_args.backbone.init_args.init_from={student}",
        "--data.init_args.train=katlit.datamodules.TaskPrompts",
        f"--data.init_args.train.init_args.families={ROOT}/configs/demo/levels.yaml",
        "--data.init_args.train.init_args.size=8",
    ]  # fmt: skip
    for words, extra in ((generated, "katlit[tasks]"), (["serve", str(student)], "katlit[vllm]")):
        done = subprocess.run([katlit, *words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr[-2000:]
        assert extra in done.stderr.splitlines()[-1]


def test_records_are_labelled_trained_on_and_planned(python: Path, folder: Path) -> None:
    student = made(folder / "student")
    said = [({"role": "user", "content": f"What is {n} + {n}?"}, str(2 * n)) for n in range(8)]
    lines = [
        {"id": answer, "messages": [asked], "regime": "off", "judge": "Easy", "answer": answer}
        for asked, answer in said
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = [
        *("-c", "base.yaml", "-c", "stage/cold_start.yaml", "-c", "logger/csv.yaml"),
        f"--model.init_args.backbone.init_args.init_from={student}",
        "--data.init_args.records_file=records.jsonl", "--data.init_args.batches.validation_share=0.0",
        "--data.init_args.batches.batch_tokens=2048", "--trainer.max_steps=2", "--trainer.accelerator=cpu",
    ]  # fmt: skip
    katlit = str(python.parent / "katlit")
    run([katlit, "label", *settings], folder)
    run([katlit, "fit", *settings], folder)
    assert (folder / "outputs/cold_start/model/model.safetensors").exists()
    assert "fits" in run([katlit, "plan", *settings, "--memory=1GiB"], folder)


def made(directory: Path) -> Path:
    """An exported model as small as can be."""
    student = tiny_backbone(directory.parent / "made", QWEN)
    student.materialize()
    student.export(directory)
    return directory


def test_reinforcement_needs_no_extra(python: Path, folder: Path) -> None:
    student = made(folder / "student")
    lines = [{"question": f"What is {n} + {n}?", "reference": str(2 * n)} for n in range(8)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sampler = yaml.safe_load((ROOT / "configs/rollout/hf.yaml").read_text())
    arguments = sampler["trainer"]["callbacks+"][0]["init_args"]
    arguments["engine"]["init_args"]["max_context"] = arguments["row_tokens"] = 512
    arguments["sampling"]["max_tokens"] = 32
    (folder / "sampler.yaml").write_text(yaml.safe_dump(sampler))
    prompts = "--data.init_args.train"
    run(
        [
            str(python.parent / "katlit"), *FIT, "-c", "sampler.yaml", "-c", "logger/csv.yaml",
            f"--model.init_args.backbone.init_args.init_from={student}", "--trainer.max_steps=1",
            f"{prompts}=katlit.datamodules.FilePrompts", f"{prompts}.init_args.path=prompts.jsonl",
            "--data.init_args.batch_size=2", "--trainer.accelerator=cpu",
        ],
        folder,
    )  # fmt: skip
    assert (folder / "outputs/step_srpo/model/model.safetensors").exists()
