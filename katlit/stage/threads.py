"""How many threads compute a model on a CPU."""

import os

import torch
from torch import nn

_SMALL = 2_000_000  # parameters


def choose_threads(model: nn.Module) -> None:
    """Let one thread alone compute a small model, whose products are too short to be shared (our choice).

    Threads that share them wait for each other thousands of times a step; beside another program a step of
    such a model takes several times as long on two threads as on one (`benchmarks/threads.py`). Where
    the environment says how many (OMP_NUM_THREADS), it is left so.
    """
    if "OMP_NUM_THREADS" not in os.environ and sum(map(torch.numel, model.parameters())) < _SMALL:
        torch.set_num_threads(1)
