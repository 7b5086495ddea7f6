"""`katlit init`: a recipe from flags or questions, never over another file."""

import sys
from pathlib import Path

import pytest
import yaml

from katlit.cli import main
from katlit.commands.init import RECIPES
from katlit.commands.recipe.reader import read_recipe
from katlit.commands.settings_files import INSTALLED


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "test: #1"):
        Path(f"{name}.jsonl").write_text("{}\n")


FLAGS = ["--model=my/model", "--teacher=a teacher", "--prompts=train.jsonl", "--heldout=test: #1.jsonl"]


@pytest.mark.parametrize("hardware", RECIPES)
def test_flags_are_the_answers(hardware: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", f"--hardware={hardware}", *FLAGS, "--output=mine.yaml"]) == 0
    assert "katlit run mine.yaml --plan" in capsys.readouterr().out
    recipe, mistakes = read_recipe(Path("mine.yaml"))
    assert mistakes == []
    assert (recipe.name, recipe.model, recipe.teacher) == ("mine", "my/model", "a teacher")
    assert recipe.heldout["init_args"]["path"] == "test: #1.jsonl"
    packaged = (INSTALLED / f"recipe/{RECIPES[hardware]}.yaml").read_text()
    assert recipe.stages.keys() == yaml.safe_load(packaged)["stages"].keys()
    written = Path("mine.yaml").read_text()
    assert written.count("#") == packaged.count("#") + 1  # its comments stay


def test_at_a_terminal_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answers = iter(["", "my/model", "", "train.jsonl", "test: #1.jsonl"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: (asked.append(text), next(answers))[1])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main(["init"]) == 0
    assert asked[0] == "hardware (laptop, one-gpu, node, cluster) [laptop]: "
    assert len(asked) == 5
    recipe, _ = read_recipe(Path("recipe.yaml"))
    assert (recipe.model, recipe.teacher) == ("my/model", "Qwen/Qwen2.5-0.5B-Instruct")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "prompts: no file 'data/prompts.jsonl' here; give --prompts"),
        (["--prompts=train.jsonl", "--heldout=train.jsonl"], "keep some questions of it"),
        ([*FLAGS, "--output=train.jsonl"], "train.jsonl exists already"),
        ([*FLAGS, "--output=no/mine.yaml"], "no folder 'no'"),
    ],
)
def test_mistakes_are_named(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--hardware=laptop", *words]) == 2
    assert told in capsys.readouterr().err
    assert not Path("recipe.yaml").exists()
    assert Path("train.jsonl").read_text() == "{}\n"
