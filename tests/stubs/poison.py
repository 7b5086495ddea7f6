"""Something that goes wrong within a chosen optimizer step."""

import sqlite3
import time
from contextlib import closing
from threading import Event, Thread
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class Poison(Callback):
    """Spoils the first trained weight or its gradient, or raises.

    Args:
        what: `gradient`, `weight`, or, before the forward pass, `exception` or `interrupt`.
        step: The optimizer step, counted from 1.
        rank: Process that it happens on; -1 for all.
    """

    def __init__(self, what: str, step: int = 3, rank: int = -1) -> None:
        self.what = what
        self.step = step
        self.rank = rank

    def _due(self, trainer: Trainer, what: str) -> bool:
        return self.what == what and self.rank in (-1, trainer.global_rank)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step + 1 == self.step and self._due(trainer, "exception"):
            raise RuntimeError("the engine is gone")
        if trainer.global_step + 1 == self.step and self._due(trainer, "interrupt"):
            raise KeyboardInterrupt

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.global_step + 1 == self.step and self._due(trainer, "gradient"):
            next(weight.grad for weight in pl_module.parameters() if weight.grad is not None).fill_(torch.nan)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step and self._due(trainer, "weight"):
            next(iter(pl_module.parameters())).data.fill_(torch.inf)


class Lock(Callback):
    """Locks an sqlite database from a step on, as another program may, until some seconds are over.

    Args:
        database: The file.
        seconds: How long.
        step: The optimizer step, counted from 1.
    """

    def __init__(self, database: str, seconds: float, step: int = 3) -> None:
        self.database = database
        self.seconds = seconds
        self.step = step
        self.thread = Thread(target=self._hold)
        self._holds = Event()

    def _hold(self) -> None:
        with closing(sqlite3.connect(self.database, timeout=60.0, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            self._holds.set()
            time.sleep(self.seconds)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step + 1 == self.step:
            self.thread.start()
            self._holds.wait()
