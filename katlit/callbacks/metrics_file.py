"""The metrics of each step in a file of the output folder, whatever the logger: for `katlit report`."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from katlit.callbacks.mode_watch import ModeWatch
from katlit.callbacks.step_callback import StepCallback
from katlit.output import naming_disk_faults, replace_file, whole_rows

FILE = "metrics.jsonl"


class MetricsFile(StepCallback):
    """Appends what was logged of a step to `metrics.jsonl` in `trainer.default_root_dir`, one line a step.

    Every `trainer.log_every_n_steps` optimizer steps, like a logger. A run that goes on from a checkpoint
    drops the lines of later steps first, and one that starts afresh all of them, so each step is there once.
    The command line adds it to every run.
    """

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        path = _path(trainer)
        if trainer.is_global_zero and not trainer.fast_dev_run and path.is_file():
            kept = [row for row in whole_rows(path) if _step(row) <= trainer.global_step]
            with _naming_faults(trainer):
                replace_file(path, "".join(f"{json.dumps(row)}\n" for row in kept))

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        if trainer.global_step % (trainer.log_every_n_steps or 1):
            return
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if "/" in name}
        for callback in trainer.callbacks:
            if isinstance(callback, ModeWatch) and callback.step_rates[0] == trainer.global_step:
                found |= callback.step_rates[1]
        line = json.dumps({"step": trainer.global_step} | found) + "\n"
        with _naming_faults(trainer), _path(trainer).open("a", encoding="utf-8") as file:
            file.write(line)


def _step(row: dict[str, Any]) -> float:
    """The step of a line; infinite where it has none, so that the line is dropped."""
    step = row.get("step")
    return step if isinstance(step, int) else float("inf")


def _naming_faults(trainer: Trainer) -> AbstractContextManager[None]:
    """An error of the disk has no name of a file where it is full."""
    return naming_disk_faults(Path(trainer.default_root_dir), "trainer.default_root_dir")


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / FILE
