"""Checkpoints that are whole or absent, and from which a run goes on exactly."""

import copy
import logging
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.optim import Optimizer
from typing_extensions import override

from katlit.callbacks.checkpoint_files import (
    PARTIAL,
    StreamedCheckpointIO,
    checkpoints,
    keep_sizes,
    newest_whole,
    remove,
    step_of,
    to_disk,
)
from katlit.callbacks.place_in_data import find_place
from katlit.callbacks.random_states import random_states, restore_random_states
from katlit.callbacks.step_callback import StepCallback
from katlit.errors import NonFiniteError, UserError, first_line, require
from katlit.output import naming_disk_faults, require_writable, set_aside
from katlit.parallel.agreement import all_agree
from katlit.parallel.collectives import data_ranks, gathered
from katlit.parallel.local_parts import all_finite

logger = logging.getLogger(__name__)

_AGREEMENT_SECONDS = 20.0  # within which all ranks must have failed, for a checkpoint at a failure


class StepCheckpoint(StepCallback, Checkpoint):
    """Writes `step-<n>.ckpt` every so many optimizer steps or minutes, at a failure, and at the end.

    A checkpoint is written under another name and renamed when it is complete, so a run that is killed while
    it writes leaves the one before. It holds weights, optimizer, schedule, the random states of every rank,
    the place in the data, and what callbacks and data remember; a file, or a folder where the strategy writes
    one. `katlit fit … --ckpt_path last` goes on from the newest; `auto` does so if there is one.

    After a SIGTERM to any rank while it trains, all ranks finish an optimizer step, write a checkpoint, and
    stop; `katlit` then exits with status 143. Lightning's own handler is put aside meanwhile: it ends ranks
    at different places, within a step too. A validation that was due at a checkpoint is not made up for when
    the run goes on from it.

    After an exception, or ctrl-C, one of the last complete step is written too, if it came on all ranks
    within seconds, not in the middle of an update, and the weights are finite; else a line says why not.

    Another number of processes can go on from a checkpoint, if its place in the data lies between two of
    their optimizer steps. A run that starts afresh where an earlier one left checkpoints, or goes on from an
    older one, moves the newer ones into a folder `aside-<n>`: nothing is lost, and `last` is always of the
    present run.

    Args:
        directory: Where to; null is `checkpoints` under `trainer.default_root_dir`.
        every_n_steps: Optimizer steps between two.
        every_minutes: Minutes after the last one when another is due, at the end of a step; null: any.
        keep: How many of the newest stay; null keeps all.
    """

    def __init__(
        self,
        directory: str | None = None,
        every_n_steps: int = 500,
        every_minutes: float | None = None,
        keep: int | None = 2,
    ) -> None:
        if every_n_steps < 1 or (keep is not None and keep < 1):
            raise UserError(f"checkpoint: every_n_steps {every_n_steps}, keep {keep}; give at least 1")
        if every_minutes is not None:
            require(every_minutes > 0, "checkpoint.every_minutes", every_minutes, "more than 0, or null")
        self.directory = directory
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self._random_states: list[dict[str, Any]] = []
        self._last_saved = 0
        self._saved_at = 0.0
        self._complete: _Place | None = None  # the last complete step
        self._rewound = False  # whether what is saved is that place
        self._updating = False
        self._terminated = False  # this rank has had a SIGTERM

    def folder(self, trainer: Trainer) -> Path:
        """Where the checkpoints are."""
        return Path(self.directory or Path(trainer.default_root_dir) / "checkpoints")

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        require_writable(self.folder(trainer), "checkpoint.directory")
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # no plugin of the user's
            trainer.strategy.checkpoint_io = StreamedCheckpointIO()
        if trainer.is_global_zero:
            for leftover in self.folder(trainer).glob(f"*{PARTIAL}"):
                remove(leftover)
        trainer.strategy.barrier("leftover checkpoints are gone")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_saved, self._saved_at = trainer.global_step, time.monotonic()
        self._complete, self._rewound, self._updating = _Place.now(trainer), False, False
        self._terminated = trainer.received_sigterm
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
            signal.signal(signal.SIGTERM, self._on_sigterm)  # Lightning takes it back at the end
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._set_aside(trainer)
        trainer.strategy.barrier("checkpoints of earlier runs are out of the way")
        rank = trainer.global_rank
        if len(self._random_states) == trainer.world_size:
            restore_random_states(self._random_states[rank])
        elif self._random_states:
            logger.warning(
                "the checkpoint is of %d processes, this run has %d; random states start afresh, so "
                "the run goes on otherwise than it would have",
                len(self._random_states),
                trainer.world_size,
            )
        self._random_states = []

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        self._updating, self._complete = False, _Place.now(trainer)
        anywhere = partial(trainer.strategy.reduce_boolean_decision, all=False)
        overdue = (
            self.every_minutes is not None and time.monotonic() - self._saved_at > 60 * self.every_minutes
        )
        due = trainer.global_step % self.every_n_steps == 0 or overdue or self._terminated
        due = anywhere(due)
        stops = due and anywhere(self._terminated)
        if due:
            self._save(trainer)
        # Lightning then ends all ranks alike, but only when the step is logged.
        trainer._signal_connector.received_sigterm = stops  # noqa: SLF001 (nothing public sets it)

    def _on_sigterm(self, *_: object) -> None:
        self._terminated = True

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > self._last_saved:
            self._save(trainer)
        self._complete = None

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where nothing was left to train: `on_train_start` was not called."""
        if trainer.global_step and not self._saved_at and trainer.is_global_zero:
            logger.warning(
                "the checkpoint is of step %d and nothing is left to train: trainer.max_steps is %s, "
                "max_epochs %s",
                trainer.global_step, trainer.max_steps, trainer.max_epochs,
            )  # fmt: skip

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._updating = True

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the last complete step, if all ranks can."""
        place, step = self._complete, trainer.global_step
        if place is None or step <= self._last_saved or trainer.fast_dev_run:
            return
        if isinstance(exception, NonFiniteError):  # its own line says what is there
            return
        self._rewound = step == place.step  # else it came in the hooks after an update
        why = None if all_finite(pl_module.parameters()) else "weights are not finite"
        if self._updating and self._rewound:
            why = "the weights were being updated"
        if not all_agree(f"checkpoint at failure {step}", able=why is None, seconds=_AGREEMENT_SECONDS):
            why = why or "not all processes failed, or could"
        self._save_at_failure(trainer, why)

    def _save_at_failure(self, trainer: Trainer, why: str | None) -> None:
        try:
            written = self._save(trainer) if why is None else None
        except (UserError, OSError, RuntimeError) as error:
            written, why = None, first_line(error)
        if written is None:
            logger.warning(
                "no checkpoint of step %d was written at the failure: %s", trainer.global_step, why
            )
        elif trainer.is_global_zero:
            logger.warning("%s was written at the failure; --ckpt_path=last goes on from it", written)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = random_states()
        if self._rewound and self._complete is not None:
            checkpoint["loops"], states = self._complete.loops, self._complete.random_states
        checkpoint["random_states"] = gathered(states)
        checkpoint["data_ranks"] = data_ranks(trainer)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._random_states = checkpoint.get("random_states", [])
        if "loops" in checkpoint and trainer.training:
            saved_by = checkpoint.get("data_ranks", data_ranks(trainer))
            find_place(trainer, checkpoint["loops"]["fit_loop"], saved_by)

    def _set_aside(self, trainer: Trainer) -> None:
        folder = self.folder(trainer)
        newer = [path for path in checkpoints(folder) if step_of(path) > trainer.global_step]
        if not newer:
            return
        aside = set_aside(newer, folder)
        logger.warning(
            "%d later checkpoints of an earlier run were moved to %s; delete them there if they "
            "are not needed",
            len(newer),
            aside,
        )

    def _save(self, trainer: Trainer) -> Path | None:
        """Write, rename, remove the old; every rank must call it."""
        if trainer.fast_dev_run:
            return None
        step = self._last_saved = trainer.global_step
        final = self.folder(trainer) / f"step-{step:08d}.ckpt"
        unfinished = final.with_name(final.name + PARTIAL)
        try:
            with naming_disk_faults(self.folder(trainer), "checkpoint.directory"):
                trainer.save_checkpoint(unfinished)
        except UserError:
            if trainer.is_global_zero and unfinished.exists():
                remove(unfinished)  # which gives its room back
            raise
        if trainer.is_global_zero:
            if unfinished.is_dir():
                keep_sizes(unfinished)
            to_disk(unfinished)
            unfinished.rename(final)
            if self.keep is not None:
                for old in checkpoints(self.folder(trainer))[: -self.keep]:
                    remove(old)
        trainer.strategy.barrier("checkpoint is complete")
        self._saved_at = time.monotonic()
        return final


class _Place(NamedTuple):
    """Where a run stands after an optimizer step, beside weights and optimizer."""

    step: int
    loops: dict[str, Any]
    random_states: dict[str, Any]

    @classmethod
    def now(cls, trainer: Trainer) -> "_Place":
        """The present place."""
        loops = trainer._checkpoint_connector._get_loops_state_dict()  # noqa: SLF001 (nothing public has them)
        return cls(trainer.global_step, copy.deepcopy(loops), random_states())


def newest_checkpoint(trainer: Trainer, *, required: bool) -> Path | None:
    """The newest whole checkpoint of a trainer's `StepCheckpoint`.

    Raises:
        UserError: where there is none, but one is required.
    """
    savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, StepCheckpoint)]
    return newest_whole([saver.folder(trainer) for saver in savers], required=required)
