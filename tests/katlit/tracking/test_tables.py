"""What TensorBoard and Weights & Biases get; `test_mlflow` has MLflow's part."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from lightning.pytorch.loggers import CSVLogger
from wandbstub import WandbStub

from katlit.cli import main
from katlit.tracking.tables import log_table

ROOT = Path(__file__).parents[3]
LOGGERS = """
trainer:
  logger:
    - class_path: lightning.pytorch.loggers.TensorBoardLogger
      init_args: {save_dir: board}
    - class_path: wandbstub.WandbStub
  callbacks+:
    - class_path: tinystage.FakeRollouts
    - class_path: katlit.callbacks.SampleTable
"""
TABLE = {"question": ["1+1", "<b>2"], "correct": [True, False]}


def test_weights_and_biases_gets_a_table_a_step() -> None:
    logger = WandbStub()
    log_table(logger, "rollouts", TABLE, 3)
    assert logger.tables == [("rollouts", ["question", "correct"], [["1+1", True], ["<b>2", False]], 3)]


def test_tensorboard_gets_lines_of_json_that_are_no_markup() -> None:
    writer = Mock()
    logger: Any = SimpleNamespace(experiment=writer)
    log_table(logger, "rollouts", TABLE, 3)
    (name, text, step) = writer.add_text.call_args.args
    assert (name, step) == ("rollouts", 3)
    assert text.splitlines() == [
        '    {"question": "1+1", "correct": true}', '    {"question": "<b>2", "correct": false}'
    ]  # fmt: skip


def test_a_logger_of_numbers_is_left_alone(tmp_path: Path) -> None:
    log_table(CSVLogger(tmp_path), "rollouts", TABLE, 3)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_run_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(WandbStub, "all", [])
    (tmp_path / "loggers.yaml").write_text(LOGGERS)
    files = [ROOT / "configs/base.yaml", ROOT / "tests/stubs/tinystage.yaml", "loggers.yaml"]
    words = [word for file in files for word in ("-c", str(file))]
    assert main(["fit", *words, "--trainer.max_steps=1", "--model.init_args.api_key=hunter2"]) == 0
    stub = WandbStub.all[-1]
    assert [table[0] for table in stub.tables] == ["rollouts"]
    assert stub.settings["trainer.max_steps"] == 1
    assert "train/loss" in stub.metrics
    written = b"".join(file.read_bytes() for file in (tmp_path / "board").rglob("*") if file.is_file())
    for part in (b"<b>2</b>", b"train/loss", b"trainer.max_steps"):
        assert part in written
    assert b"hunter2" not in written + str(stub.settings).encode()
