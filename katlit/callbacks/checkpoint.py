"""Checkpoints that are whole or absent, and from which a run goes on exactly."""

import logging
import os
import random
import re
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from katlit.callbacks.step_callback import StepCallback
from katlit.errors import UserError
from katlit.output import require_writable, set_aside
from katlit.parallel.collectives import data_ranks, gathered

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-\d+\.ckpt")
_PARTIAL = ".partial"


class StepCheckpoint(StepCallback, Checkpoint):
    """Writes `step-<n>.ckpt` every so many optimizer steps, when SIGTERM arrives, and at the end.

    A checkpoint is written under another name and renamed when it is complete, so a run that is killed while
    it writes leaves the one before. It holds weights, optimizer, schedule, the random states of every rank,
    the place in the data, and what callbacks and data remember; a file, or a folder where the strategy writes
    one. `katlit fit … --ckpt_path last` goes on from the newest; `auto` does so if there is one.

    After a SIGTERM to any rank while it trains, all ranks finish an optimizer step, write a checkpoint, and
    stop; `katlit` then exits with status 143. Lightning's own handler is put aside meanwhile: it ends ranks
    at different places, within a step too. A validation that was due at a checkpoint is not made up for when
    the run goes on from it.

    Another number of processes can go on from a checkpoint, if its place in the data lies between two of
    their optimizer steps. A run that starts afresh where an earlier one left checkpoints, or goes on from an
    older one, moves the newer ones into a folder `aside-<n>`: nothing is lost, and `last` is always of the
    present run.

    Args:
        directory: Where to; null is `checkpoints` under `trainer.default_root_dir`.
        every_n_steps: Optimizer steps between two.
        keep: How many of the newest stay; null keeps all.
    """

    def __init__(self, directory: str | None = None, every_n_steps: int = 500, keep: int | None = 2) -> None:
        if every_n_steps < 1 or (keep is not None and keep < 1):
            raise UserError(f"checkpoint: every_n_steps {every_n_steps}, keep {keep}; give at least 1")
        self.directory = directory
        self.every_n_steps = every_n_steps
        self.keep = keep
        self._random_states: list[dict[str, Any]] = []
        self._last_saved = 0
        self._terminated = False  # this rank has had a SIGTERM

    def folder(self, trainer: Trainer) -> Path:
        """Where the checkpoints are."""
        return Path(self.directory or Path(trainer.default_root_dir) / "checkpoints")

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        require_writable(self.folder(trainer), "checkpoint.directory")
        if trainer.is_global_zero:
            for leftover in self.folder(trainer).glob(f"*{_PARTIAL}"):
                _remove(leftover)
        trainer.strategy.barrier("leftover checkpoints are gone")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last_saved = trainer.global_step
        self._terminated = trainer.received_sigterm
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
            signal.signal(signal.SIGTERM, self._on_sigterm)  # Lightning takes it back at the end
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._set_aside(trainer)
        trainer.strategy.barrier("checkpoints of earlier runs are out of the way")
        rank = trainer.global_rank
        if len(self._random_states) == trainer.world_size:
            _restore_random_states(self._random_states[rank])
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
        stops = trainer.strategy.reduce_boolean_decision(self._terminated, all=False)
        if stops or trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)
        # Lightning then ends all ranks alike, but only when the step is logged.
        trainer._signal_connector.received_sigterm = stops  # noqa: SLF001 (nothing public sets it)

    def _on_sigterm(self, *_: object) -> None:
        self._terminated = True

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > self._last_saved:
            self._save(trainer)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["random_states"] = gathered(_random_states())
        checkpoint["data_ranks"] = data_ranks(trainer)

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._random_states = checkpoint.get("random_states", [])
        if "loops" in checkpoint and trainer.training:
            current = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            _recount_batches(trainer, current, saved_by=checkpoint.get("data_ranks", data_ranks(trainer)))

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

    def _save(self, trainer: Trainer) -> None:
        """Write, rename, remove the old; every rank must call it."""
        if trainer.fast_dev_run:
            return
        step = self._last_saved = trainer.global_step
        final = self.folder(trainer) / f"step-{step:08d}.ckpt"
        partial = final.with_name(final.name + _PARTIAL)
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            _to_disk(partial)
            partial.rename(final)
            if self.keep is not None:
                for old in checkpoints(self.folder(trainer))[: -self.keep]:
                    _remove(old)
        trainer.strategy.barrier("checkpoint is complete")


def checkpoints(directory: str | Path) -> list[Path]:
    """The complete checkpoints of a directory, oldest first."""
    found = [path for path in Path(directory).glob("step-*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def newest_checkpoint(trainer: Trainer, *, required: bool) -> Path | None:
    """The newest complete checkpoint of a trainer's `StepCheckpoint`.

    Raises:
        UserError: where there is none, but one is required.
    """
    savers = [saver for saver in trainer.checkpoint_callbacks if isinstance(saver, StepCheckpoint)]
    folders = [saver.folder(trainer) for saver in savers]
    found = [path for folder in folders for path in checkpoints(folder)]
    if required and not found:
        places = ", ".join(map(str, folders))
        raise UserError(f"ckpt_path: last, but no checkpoint is in {places}; leave it out, or use auto")
    return found[-1] if found else None


def _recount_batches(trainer: Trainer, progress: dict[str, int], saved_by: int) -> None:
    """Turn the batches that each of `saved_by` processes has seen of an epoch into those of each one here.

    Counted are processes that see different data.
    """
    here = data_ranks(trainer)
    seen = progress["ready"] * saved_by
    step = here * trainer.accumulate_grad_batches
    if seen % step:
        raise UserError(
            f"ckpt_path: the checkpoint was written {seen} batches into an epoch, which is within a step"
            f" of {step} (processes x accumulate_grad_batches); go on with other numbers of them"
        )
    unfinished = progress["ready"] - progress["completed"]  # the batch after which it was written
    ready = seen // here
    progress.update(ready=ready, started=ready, processed=ready, completed=ready - unfinished)


def step_of(path: Path) -> int:
    """The optimizer steps in the name of a checkpoint."""
    return int(path.name.removeprefix("step-").removesuffix(".ckpt"))


def _remove(path: Path) -> None:
    """Remove a file or folder; it loses its name first, so that a kill leaves no half of it."""
    if not path.name.endswith(_PARTIAL):
        path = path.rename(path.with_name(path.name + _PARTIAL))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _to_disk(path: Path) -> None:
    """Have the system write what it holds back, so that a rename cannot be on disk before its content."""
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _random_states() -> dict[str, Any]:
    """All random states of this process, in types that a weights-only load accepts."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def _restore_random_states(states: dict[str, Any]) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
