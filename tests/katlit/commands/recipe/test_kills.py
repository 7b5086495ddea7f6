"""`katlit run` killed at any moment, called again, leaves what it leaves undisturbed.

A kill is an exception after which nothing is written any more; the commands are stand-ins that write files.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from unittest.mock import Mock

import pytest
from torch import save

from katlit.cli import main
from katlit.commands.recipe import command, done
from katlit.commands.recipe.process import Commands

RECIPE = """\
name: mine
model: student
output: out
evaluation: {}
stages: {distill: {set: {trainer.max_steps: 2}}, cold_start: {}}
"""
STEPS = 3  # of a stand-in that trains


class Killed(BaseException):
    """What `kill -9` is here."""


class Machine:
    """Counts moments, and is dead after one of them."""

    def __init__(self) -> None:
        self.moments = 0
        self.dies_at: int | None = None
        self.commands: list[str] = []

    def moment(self) -> None:
        """Something is about to be written."""
        if self.dies_at is not None and self.moments >= self.dies_at:
            raise Killed
        self.moments += 1

    def write(self, file: Path, text: str) -> None:
        self.moment()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def status(self, words: list[str]) -> int:
        """One command: what it writes follows from its words and from what these name."""
        self.commands.append(words[0])
        given = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
        if words[0] == "report":
            figures = {"headline": {"token_ratio": 0.7, "accuracy_gap": 0.0}, "of": self.evaluations()}
            for name in command.REPORT_FILES:
                self.write(Path("out", name), json.dumps(figures))
        elif words[0] == "card":
            self.write(Path(words[1], "README.md"), str(self.evaluations()))
        elif words[0] == "label":
            self.write(Path("out/cache/labels"), given["seed_everything"])
        elif words[0] == "test":
            model = Path(given["model.init_args.backbone.init_args.init_from"], "config.json")
            self.write(Path(given["trainer.default_root_dir"], "evaluation.json"), model.read_text())
        else:
            self.train(given)
        return 0

    def evaluations(self) -> list[str]:
        return [file.read_text() for file in sorted(Path("out/evaluate").glob("*/evaluation.json"))]

    def train(self, given: dict[str, str]) -> None:
        backbone, root = "model.init_args.backbone.init_args", Path(given["trainer.default_root_dir"])
        start = given.get(f"{backbone}.init_from", "")
        state = Path(start, "config.json").read_text() if start.startswith("out") else "student"
        found = sorted((root / "checkpoints").glob("*.txt"))
        step = 0
        if given.get("ckpt_path") and found:
            step, state = len(found), found[-1].read_text()
        for number in range(step, STEPS):
            state += f" {root.name}-{number}-{given.get('trainer.max_steps')}"
            self.write(root / f"checkpoints/{number}.txt", state)
        self.write(root / "model/config.json", state)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    machine = Machine()
    write = done.replace_file

    def replace_file(path: Path, text: str) -> None:
        machine.moment()
        write(path, text)

    @contextmanager
    def parent_run(_recipe: object) -> Iterator[Mock]:
        yield Mock(uri="uri", run="parent")

    monkeypatch.setattr(Commands, "status", lambda own, words, launch: machine.status(words))
    monkeypatch.setattr(done, "replace_file", replace_file)
    monkeypatch.setattr(command, "_parent_run", parent_run)
    monkeypatch.setattr(command, "page_of", lambda *_: "/")
    return machine


def results() -> dict[str, str]:
    """All that is left, but marks and what was put aside."""
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    kept = [path for path in files if ".steps" not in path.parts and "aside" not in str(path)]
    return {str(path): path.read_text() for path in kept}


def killed(machine: Machine, moment: int, *words: str) -> None:
    machine.moments, machine.dies_at = 0, moment
    with pytest.raises(Killed):
        main(["run", "mine.yaml", *words])
    machine.dies_at = None


def test_killed_at_any_moment(machine: Machine) -> None:
    assert main(["run", "mine.yaml"]) == 0
    undisturbed, moments = results(), machine.moments
    assert moments > 25
    for moment in range(moments):
        shutil.rmtree("out")
        killed(machine, moment)
        assert main(["run", "mine.yaml"]) == 0
        assert results() == undisturbed, moment
        machine.commands.clear()
        assert main(["run", "mine.yaml"]) == 0
        assert machine.commands == []


def test_killed_at_any_moment_while_something_is_changed(machine: Machine) -> None:
    changed = ["--set", "stages.distill.set.trainer.max_steps=5"]
    assert main(["run", "mine.yaml"]) == 0
    shutil.copytree("out", "before")
    machine.moments = 0
    assert main(["run", "mine.yaml", *changed]) == 0
    undisturbed = results()
    for moment in range(0, machine.moments, 2):
        shutil.rmtree("out")
        shutil.copytree("before", "out")
        killed(machine, moment, *changed)
        assert main(["run", "mine.yaml", *changed]) == 0
        assert results() == undisturbed, moment


def test_killed_ten_times(machine: Machine) -> None:
    assert main(["run", "mine.yaml"]) == 0
    undisturbed = results()
    shutil.rmtree("out")
    random = Random(1)
    for _ in range(10):
        killed(machine, random.randint(0, 3))
    assert main(["run", "mine.yaml"]) == 0
    assert results() == undisturbed


def test_a_stage_whose_checkpoints_are_all_damaged_starts_anew(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "mine.yaml"]) == 0
    undisturbed = results()
    shutil.rmtree("out")
    killed(machine, 5)
    folder = Path("out/distill/checkpoints")
    assert folder.is_dir()
    (folder / "step-00000001.ckpt").write_text("cut off")
    assert main(["run", "mine.yaml"]) == 0
    assert f"distill: all checkpoints in {folder} are damaged; it starts anew" in capsys.readouterr().out
    assert results() == undisturbed
    assert Path("out/distill/aside-1/checkpoints/step-00000001.ckpt").is_file()
    shutil.rmtree("out")
    killed(machine, 5)
    save({}, folder / "step-00000001.ckpt")
    assert main(["run", "mine.yaml"]) == 0
    assert "damaged" not in capsys.readouterr().out
