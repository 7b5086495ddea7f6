"""Faults that must not cost a run: what happens, when it stops, what it prints, what is left.

Here are those of any stage; those of data and prompts are in `test_faults_of_data.py`. Weights that the
engine does not have are a table of `tests/katlit/callbacks/rollout/test_weight_sync.py`, trackers that hang
or die are in `tests/katlit/tracking`, what a killed process leaves in the temporary folder is in
`tests/katlit/test_output.py`. Over 300 lines because it is one table.
"""

import errno
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import pytest
import torch
from killable import ROOT, finish, on_two_processes, start
from lightning.pytorch import Trainer
from mlflow import MlflowClient

from katlit.callbacks.checkpoint_files import checkpoints
from katlit.callbacks.start_engine import start_engine
from katlit.cli import main
from katlit.errors import UserError

Fit = Callable[..., int]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),  # its rows are all the same
]


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


Prepare = Callable[[Path, pytest.MonkeyPatch], None]


def failing(number: int) -> Prepare:
    """The disk refuses a checkpoint that is half written."""

    def write(self: Trainer, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(number, os.strerror(number))

    return lambda _, patch: patch.setattr(Trainer, "save_checkpoint", write)


def thesis(directory: Path, _: pytest.MonkeyPatch) -> None:
    """A folder of other work is where the model is to be."""
    (directory / "model").mkdir()
    (directory / "model/thesis.tex").touch()


def note(directory: Path, _: pytest.MonkeyPatch) -> None:
    """A file is where a folder is to be."""
    (directory / "notes").touch()


class Fault(NamedTuple):
    """What happens, what the one line says, the steps that checkpoints are left of; no model is exported."""

    words: list[str]
    printed: list[str]
    left: list[int]
    prepare: Prepare = lambda *_: None


FAULTS = {
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
    "full disk": Fault(
        [],
        ["checkpoint.directory: writing to 'outputs/checkpoints' failed (No space left", "choose another"],
        [],
        failing(errno.ENOSPC),
    ),
    "disk that became read-only": Fault(
        [],
        ["checkpoint.directory: writing to 'outputs/checkpoints' failed (Read-only file system"],
        [],
        failing(errno.EROFS),
    ),
    "folder that cannot be made": Fault(
        ["--trainer.default_root_dir=notes/run"], ["'notes/run", "(Not a directory)"], [], note
    ),
    "other files where the model is to be": Fault(
        [], ["ExportModel.directory: 'model' holds other files"], [], thesis
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_the_run_with_one_line_and_nothing_is_lost(
    name: str,
    fit: Fit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fault = FAULTS[name]
    fault.prepare(tmp_path, monkeypatch)
    assert fit(*fault.words) == 2
    line = told(capsys)
    assert all(words in line for words in fault.printed), line
    assert steps(tmp_path) == fault.left
    assert [path.name for path in tmp_path.glob("outputs/checkpoints/*")] == [
        f"step-{step:08}.ckpt" for step in fault.left
    ]
    assert [path.name for path in tmp_path.glob("model/*")] == ["thesis.tex"] * (fault.prepare is thesis)
    for path in checkpoints(tmp_path / "outputs/checkpoints"):
        assert all(bool(weight.isfinite().all()) for weight in torch.load(path)["state_dict"].values())


def test_a_model_is_never_written_over(fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def weights(folder: str = "model") -> bytes:
        return (tmp_path / folder / "weights.pt").read_bytes()

    assert fit() == 0
    first = weights()
    assert fit("-c", f"{ROOT}/configs/debug/fast.yaml", "--model.learning_rate=0.01") == 0
    assert weights() == first
    assert "a development run leaves no export: model is as it was" in caplog.text
    assert [path.name for path in tmp_path.glob(".model.*")] == [".model.run"]
    assert fit("--ckpt_path=last", "--trainer.max_steps=5") == 0  # goes on: replaces its own
    longer = weights()
    assert longer != first
    assert not (tmp_path / "aside-1").exists()
    assert fit("--model.learning_rate=0.01") == 0  # another run
    assert "model holds the model of another run" in caplog.text
    assert weights("aside-1/model") == longer
    assert weights() not in (first, longer)


@pytest.mark.parametrize("none", ["max_steps", "limit_train_batches"])
def test_without_a_step_no_model_is_exported(
    none: str, fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit() == 0
    model = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert fit("--ckpt_path=last", "--trainer.max_steps=3") == 0
    assert "the checkpoint is of step 4 and nothing is left to train: trainer.max_steps is 3" in caplog.text
    assert "no optimizer step was done" not in caplog.text
    assert fit(f"--trainer.{none}=0") == 0
    assert "so no model is exported; model is as it was" in caplog.text
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == model
    assert not (tmp_path / "aside-1").exists()


@pytest.mark.parametrize("what", ["exception", "interrupt"])
def test_a_failure_writes_the_last_complete_step_from_which_the_run_goes_on(
    what: str, fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seldom = "--checkpoint.every_n_steps=100"
    assert fit(seldom, "--trainer.default_root_dir=whole") == 0
    with suppress(RuntimeError):
        assert fit(seldom, *poison(what)) == 130
    assert steps(tmp_path) == [2]
    assert "step-00000002.ckpt was written at the failure" in caplog.text
    (tmp_path / "model").rename(tmp_path / "whole/model")
    assert fit(seldom, "--ckpt_path=last") == 0
    ours, theirs = (torch.load(tmp_path / path / "weights.pt") for path in ("model", "whole/model"))
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)


def test_checkpoints_come_by_time_too(fit: Fit, tmp_path: Path) -> None:
    assert fit("--checkpoint.every_n_steps=100", "--checkpoint.every_minutes=1.0e-9") == 0
    assert steps(tmp_path) == [3, 4]


@pytest.mark.parametrize("wrong", ["cut off", "flipped"])
def test_a_damaged_checkpoint_is_passed_over(
    wrong: str, fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert fit() == 0
    newest = tmp_path / "outputs/checkpoints/step-00000004.ckpt"
    content = newest.read_bytes()
    weights: Any = torch.load(newest)["state_dict"]["backbone.layer.weight"]
    middle = content.index(weights.numpy().tobytes())
    spoilt = {
        "cut off": content[: len(content) // 2],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }
    newest.write_bytes(spoilt[wrong])
    assert fit(f"--ckpt_path={newest}") == 2
    assert "step-00000004.ckpt' is damaged" in told(capsys)
    assert fit("--ckpt_path=last", "--trainer.max_steps=5") == 0
    assert "step-00000004.ckpt is damaged" in caplog.text
    assert steps(tmp_path)[-1] == 5


def test_an_engine_whose_folder_another_machine_does_not_see_is_not_started(tmp_path: Path) -> None:
    """The second process, whose machine has a disk of its own under the same name."""
    trainer, engine = Mock(default_root_dir=str(tmp_path), is_global_zero=False), Mock()
    trainer.strategy.broadcast.return_value = str(tmp_path / ".engine-of-the-first")
    trainer.strategy.reduce_boolean_decision.side_effect = lambda seen, **_: seen
    with pytest.raises(UserError, match=r"trainer\.default_root_dir: .* is not seen by all; set it to"):
        start_engine(engine, trainer, Mock())
    engine.start.assert_not_called()


def test_a_tracking_server_that_is_gone_stops_no_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor a run of a recipe, nor labelling, which logs nothing; a new run is refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("katlit.tracking.mlflow.PATIENCE", 0.2)
    files = [f"-c={ROOT}/configs/base.yaml", f"-c={ROOT}/tests/stubs/tinystage.yaml"]
    assert main(["fit", *files, "--trainer.logger=false", "--trainer.max_steps=4"]) == 0
    assert main(["fit", *files, "--trainer.max_steps=5"]) == 2
    assert "http://127.0.0.1:9 cannot be reached" in told(capsys)
    assert main(["label", *files]) == 0
    assert main(["fit", *files, "--trainer.max_steps=5", "--ckpt_path=auto"]) == 0
    monkeypatch.setenv("KATLIT_PARENT_RUN_ID", "parent")
    assert main(["fit", *files, "--trainer.max_steps=1"]) == 0
    waiting = [path.read_text().splitlines() for path in tmp_path.glob("outputs/*.unsent.jsonl")]
    assert [json.loads(lines[0])["kind"] for lines in waiting] == ["create", "create"]
    assert all('"train/loss"' in "".join(lines) for lines in waiting)


@pytest.mark.soak
def test_a_database_that_is_locked_for_45_seconds_stops_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run waits at its end for as long as nothing moves, and the next one sends what is left."""
    monkeypatch.chdir(tmp_path)
    files = ["fit", f"-c={ROOT}/configs/base.yaml", f"-c={ROOT}/tests/stubs/tinystage.yaml"]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracked = [f"--trainer.logger.init_args.tracking_uri={uri}", "--trainer.max_steps=6"]
    lock = ["--trainer.callbacks+=poison.Lock", f"--trainer.callbacks.database={tmp_path}/mlflow.db"]
    assert main([*files, *tracked, *lock, "--trainer.callbacks.seconds=45"]) == 0
    assert len(list(tmp_path.glob("*.unsent.jsonl"))) == 1
    with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=60.0, isolation_level=None)) as free:
        free.execute("BEGIN EXCLUSIVE")  # when the 45 seconds are over
    assert main([*files, *tracked, "--trainer.default_root_dir=second"]) == 0
    assert not list(tmp_path.glob("*.unsent.jsonl"))
    client = MlflowClient(uri)
    for run in client.search_runs([client.get_experiment_by_name("katlit").experiment_id]):
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [entry.step for entry in history] == list(range(6))
        assert run.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [-1, 1])
def test_a_failure_on_two_processes(rank: int, tmp_path: Path) -> None:
    """On both a checkpoint is written; on one alone it is not, and the other does not wait for ever."""
    words = [*on_two_processes("ddp"), "--checkpoint.every_n_steps=100", "--trainer.callbacks+=poison.Poison"]
    words += ["--trainer.callbacks.what=exception", f"--trainer.callbacks.rank={rank}"]
    errors = finish(start(tmp_path, *words), 1)
    assert "the engine is gone" in errors
    left = [path.name for path in checkpoints(tmp_path / "checkpoints")]
    if rank == -1:
        assert left == ["step-00000002.ckpt"]
        assert "--ckpt_path=last goes on from it" in errors
    else:
        assert left == []
        assert "not all processes failed" in errors
