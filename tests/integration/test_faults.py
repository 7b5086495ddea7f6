"""Faults that must not cost a run: what happens, when it stops, what it prints, what is left."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from killable import ROOT

from katlit.callbacks.checkpoint import checkpoints
from katlit.cli import main

Fit = Callable[..., int]
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """`katlit fit` of four steps, with a checkpoint after each, an export and no tracking; its status."""
    monkeypatch.chdir(tmp_path)
    files = [f"-c={ROOT}/configs/base.yaml", f"-c={ROOT}/tests/stubs/tinystage.yaml"]
    settings = ["--trainer.max_steps=4", "--trainer.logger=false", "--checkpoint.every_n_steps=1"]
    export = ["--trainer.callbacks+=katlit.callbacks.ExportModel", "--trainer.callbacks.directory=model"]
    return lambda *words: main(["fit", *files, *settings, *export, *words])


def steps(directory: Path) -> list[int]:
    """The steps that there are checkpoints of."""
    return [int(path.name[5:13]) for path in checkpoints(directory / "outputs/checkpoints")]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the error."""
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("katlit: error: ")]
    return line.removeprefix("katlit: error: ")


def poison(what: str, step: int = 3) -> list[str]:
    return [
        "--trainer.callbacks+=poison.Poison",
        f"--trainer.callbacks.what={what}",
        f"--trainer.callbacks.step={step}",
    ]


class Fault(NamedTuple):
    """What happens, what is printed, and the steps that checkpoints are left of; no model is exported."""

    words: list[str]
    printed: list[str]
    left: list[int]


NOT_FINITE = {
    "learning rate of 1e30": Fault(
        ["--model.learning_rate=1.0e30"], ["the loss is", "in optimizer step 2", "learning_rate"], [1]
    ),
    "gradient": Fault(
        poison("gradient"),
        ["the gradient of backbone.layer.weight is not finite in optimizer step 3"],
        [1, 2],
    ),
    "weight": Fault(
        poison("weight"),
        ["the weight of backbone.layer.weight is not finite", "outputs/checkpoints/step-00000002.ckpt"],
        [1, 2],
    ),
    "weight, in the last step": Fault(poison("weight", 4), ["in optimizer step 4"], [2, 3]),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_what_is_not_finite_stops_the_run_unsaved(
    name: str, fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = NOT_FINITE[name]
    assert fit(*fault.words) == 2
    line = told(capsys)
    assert all(words in line for words in fault.printed), line
    assert steps(tmp_path) == fault.left
    assert not any((tmp_path / "model").iterdir())
    for path in checkpoints(tmp_path / "outputs/checkpoints"):
        assert all(bool(weight.isfinite().all()) for weight in torch.load(path)["state_dict"].values())
