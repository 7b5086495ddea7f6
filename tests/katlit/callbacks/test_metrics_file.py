import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tinystage import TinyData, TinyStage

from katlit.callbacks.metrics_file import MetricsFile
from katlit.callbacks.mode_watch import ModeWatch
from katlit.commands.trainer import KatTrainer
from katlit.errors import UserError
from katlit.output import whole_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),
]


def fit(folder: Path, steps: int, checkpoint: Path | None = None) -> Path:
    trainer = KatTrainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=folder, max_steps=steps, max_epochs=-1,
        log_every_n_steps=1, callbacks=[MetricsFile()],
    )  # fmt: skip
    trainer.fit(TinyStage(), datamodule=TinyData(), ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return folder / "metrics.jsonl"


def test_the_think_rates_of_a_step_are_there_without_a_logger(tmp_path: Path) -> None:
    watch = ModeWatch()
    trainer: Any = SimpleNamespace(
        is_global_zero=True, fast_dev_run=False, global_step=0, log_every_n_steps=1, callback_metrics={},
        default_root_dir=tmp_path, callbacks=[watch], loggers=[],
    )  # fmt: skip
    module: Any = SimpleNamespace(log=lambda *_, **__: None)
    zeros = torch.zeros(1, dtype=torch.long)
    for difficulty in (1, 2):
        trainer.global_step = difficulty
        batch = {
            "modes": zeros,
            "group_ids": zeros,
            "difficulties": zeros + difficulty,
            "forced": zeros.bool(),
        }
        watch.on_step_end(trainer, module, batch)
        MetricsFile().on_step_end(trainer, module, batch)
    assert whole_rows(tmp_path / "metrics.jsonl") == [
        {"step": step, f"modes/think_rate/difficulty-{step}": 0} for step in (1, 2)
    ]


def test_a_full_disk_is_told_with_folder_and_setting(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"^trainer\.default_root_dir: writing to .* failed \(No space"):
        fit(tmp_path, 1)


def test_each_step_is_there_once_however_often_a_run_was_killed(tmp_path: Path) -> None:
    file = fit(tmp_path, 4)
    rows = whole_rows(file)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert len({row["train/loss"] for row in rows}) == 4
    with file.open("a") as cut:
        cut.write('{"step": 5, "train/lo')
    fit(tmp_path, 2)
    with file.open("a") as other:
        other.write('{"loss": 1}\n')
    fit(tmp_path, 4, tmp_path / "2.ckpt")
    with file.open("a") as cut:
        cut.write('{"step": 5, "train/lo')
    assert [row["step"] for row in whole_rows(fit(tmp_path, 5, tmp_path / "4.ckpt"))] == [1, 2, 3, 4, 5]
    assert all(json.loads(line) for line in file.read_text().splitlines())
