"""Processes of one command that work apart for hours, and meet: by a store, without a process group.

Whatever they start, such as an engine, is then alone in its process, and on devices of its own.
"""

import os
import threading
import time

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from torch.distributed.rendezvous import rendezvous

_SECONDS = 0.2  # between two looks


class Meeting:
    """What the processes tell each other. Whoever started them ends all where one fails.

    Args:
        environment: How they were started.
        rank: This process.
        number: Processes that there are.
    """

    def __init__(self, environment: ClusterEnvironment, rank: int, number: int) -> None:
        os.environ["MASTER_ADDR"] = environment.main_address
        os.environ["MASTER_PORT"] = str(environment.main_port)
        self._number = number
        if environment.local_rank() > 0 and not environment.creates_processes_externally:
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        self._store, *_ = next(rendezvous("env://", rank, number))

    def arrive(self, place: str) -> None:
        """Tell that this process has come to a place."""
        self._store.add(f"katlit/{place}", 1)

    def wait(self, place: str, number: int | None = None) -> None:
        """Wait, however long, until so many processes, or all, have come to a place."""
        while self._store.add(f"katlit/{place}", 0) < (self._number if number is None else number):
            time.sleep(_SECONDS)


def _end_with(starter: int) -> None:
    """End this process when the one that has started it is gone, which would else never be noticed."""
    while os.getppid() == starter:
        time.sleep(1.0)
    os._exit(1)


def devices_of(visible: str | None, count: int, rank: int, number: int) -> str | None:
    """Return which devices a process of a machine has to itself, as CUDA_VISIBLE_DEVICES wants it.

    Args:
        visible: CUDA_VISIBLE_DEVICES of all of them.
        count: Devices that they see.
        rank: The process among those of its machine.
        number: How many these are.

    Returns:
        An equal share of the devices, neighbours; None where there are fewer than processes.
    """
    names = visible.split(",")[:count] if visible else [str(device) for device in range(count)]
    size = len(names) // number
    return ",".join(names[rank * size : (rank + 1) * size]) if size else None


def take_devices(rank: int, number: int) -> None:
    """Leave this process its share of the machine's devices, before it has used any."""
    share = devices_of(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count(), rank, number)
    if share is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share
