"""How many threads compute a small model on a CPU."""

import os

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

_SMALL = 2_000_000  # parameters


class FewThreads(Callback):
    """Lets one thread alone train a small model on a CPU, whose products are too short to be shared.

    Threads that share them wait for each other thousands of times a step: beside another program, a step on
    two threads takes several times as long as on one (benchmarks/threads.py). Where the environment says how
    many (OMP_NUM_THREADS) it is left so. Our choice.
    """

    def __init__(self) -> None:
        self._before: int | None = None

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        on_cpu = trainer.strategy.root_device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ
        if on_cpu and sum(map(torch.numel, pl_module.parameters())) < _SMALL:
            self._before = torch.get_num_threads()
            torch.set_num_threads(1)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._before is not None:
            torch.set_num_threads(self._before)
            self._before = None
