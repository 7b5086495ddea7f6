"""A record of every rollout that was trained on, for `katlit replay`."""

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from katlit.callbacks.step_callback import StepCallback
from katlit.errors import UserError
from katlit.output import naming_disk_faults, require_writable, set_aside
from katlit.parallel.collectives import Peers
from katlit.rollout.record import RolloutRecord
from katlit.rollout.record_files import record_file, record_files, write_records

logger = logging.getLogger(__name__)

DIGITS = 6  # of a log-probability


class RolloutLog(StepCallback):
    """Writes the rollouts of each step to a file of its own, on each rank that sees different data.

    `<directory>/step-<n>.rank-<r>.jsonl.gz` has a line for each rollout (`katlit.rollout.record`), those that
    a reward could not judge included; n counts the optimizer steps before the one that they are trained on. A
    file is whole or absent. A run that goes on from a checkpoint, or starts afresh where an earlier one left
    rollouts, moves those of the steps to come into a folder `aside-<n>`, so that each step is there once.
    Rollouts of several updates are in the file of the first one. Where a flat group was sampled anew, the
    file has its last round alone, the rollouts numbered on; what is flat still is marked as left out.

    On disk a token takes 2 bytes, 0.9 without log-probabilities, as measured with the demo's vocabulary; at
    most about 7 and 3, which random ones of 152,000 tokens take.

    Args:
        directory: Where to; null is `rollouts` under `trainer.default_root_dir`. All ranks of all nodes must
            see the same folder for `katlit replay` to find everything.
        log_probs: Whether to keep the engine's log-probability of each token.
        keep: How many of the newest steps are kept; null keeps all.
    """

    def __init__(self, directory: str | None = None, log_probs: bool = True, keep: int | None = None) -> None:
        if keep is not None and keep < 1:
            raise UserError(f"RolloutLog: keep {keep}; give at least 1, or null to keep all")
        self.directory = directory
        self.log_probs = log_probs
        self.keep = keep
        self._rows: dict[tuple[int, int, int], dict[str, Any]] = {}  # not written yet

    def folder(self, trainer: Trainer) -> Path:
        """Where the files are."""
        return Path(self.directory or Path(trainer.default_root_dir) / "rollouts")

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            require_writable(self.folder(trainer), "RolloutLog.directory")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._rows = {}
        if trainer.is_global_zero and not trainer.fast_dev_run:
            files = record_files(self.folder(trainer))
            newer = [path for step, path in files if step >= trainer.global_step]
            if newer:
                aside = set_aside(newer, self.folder(trainer))
                logger.warning("an earlier run's rollouts of later steps were moved to %s", aside)
        trainer.strategy.barrier("rollouts of earlier runs are out of the way")

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect the rollouts of the step's micro-batches; they are written after its update."""
        for row in [*batch.get("samples", []), *batch.get("unjudged", [])]:
            record = row["record"]
            self._rows[record["step"], record["group"], record["index"]] = row
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        rows, self._rows = self._rows, {}
        if trainer.fast_dev_run or Peers(pl_module.device_mesh).rank != 0:
            return
        with naming_disk_faults(self.folder(trainer), "RolloutLog.directory"):
            for step in {step for step, _, _ in rows}:
                path = record_file(self.folder(trainer), step, trainer.global_rank)
                if not path.exists():  # a later update on the same rollouts
                    write_records(path, [self._record(row) for (of, _, _), row in rows.items() if of == step])
        self._forget(trainer)

    def _record(self, row: dict[str, Any]) -> RolloutRecord:
        log_probs = [round(value, DIGITS) for value in row["record"]["log_probs"]]
        trained = "answer_advantage" in row and not row["record"]["left_out"]
        record: RolloutRecord = row["record"] | {
            "log_probs": log_probs if self.log_probs else None,
            "advantages": [row["judge_advantage"], row["answer_advantage"]] if trained else None,
        }
        return record

    def _forget(self, trainer: Trainer) -> None:
        """Remove this rank's own files of old steps."""
        if self.keep is None:
            return
        own = f".rank-{trainer.global_rank}."
        files = [path for _, path in record_files(self.folder(trainer)) if own in path.name]
        for path in files[: -self.keep]:
            path.unlink()
