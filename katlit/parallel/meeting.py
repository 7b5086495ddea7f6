"""Processes of one command that work apart for hours, and meet: by a store, without a process group.

Whatever they start, such as an engine, is then alone in its process, and on devices of its own.
"""

import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from torch.distributed.rendezvous import rendezvous

from katlit.errors import UserError
from katlit.output import require_writable

_SECONDS = 0.2  # between two looks
_LATE = 20.0  # until a file is seen on other machines
_FAILED = "failed"  # a place where nobody wants to be


class Meeting:
    """What the processes tell each other. Where one fails, the others fail where they next wait.

    Args:
        environment: How they were started.
        rank: This process.
        number: Processes that there are.
    """

    def __init__(self, environment: ClusterEnvironment, rank: int, number: int) -> None:
        os.environ["MASTER_ADDR"] = environment.main_address
        os.environ["MASTER_PORT"] = str(environment.main_port)
        self._rank, self._number = rank, number
        if environment.local_rank() > 0 and not environment.creates_processes_externally:
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        self._store, *_ = next(rendezvous("env://", rank, number))

    def arrive(self, place: str) -> None:
        """Tell that this process has come to a place."""
        self._store.add(f"katlit/{place}", 1)

    def fail(self) -> None:
        """Tell that this process fails, as far as there is anyone to be told."""
        with suppress(RuntimeError):
            self.arrive(_FAILED)

    def wait(self, place: str, number: int | None = None) -> None:
        """Wait, however long, until so many processes, or all, have come to a place.

        Raises:
            UserError: where another process has failed, or the first one, which keeps the store, is gone.
        """
        wanted = self._number if number is None else number
        try:
            while self._store.add(f"katlit/{place}", 0) < wanted:
                if self._store.add(f"katlit/{_FAILED}", 0):
                    raise UserError("another process has failed, and says why; mend that and run again")
                time.sleep(_SECONDS)
        except RuntimeError as error:  # torch's, of a store that nobody keeps
            raise UserError("the first process is gone; see what it says, and run again") from error

    def require_shared(self, folder: Path, key: str) -> None:
        """Find out whether all processes see what the first one writes into a folder.

        Raises:
            UserError: where this one does not, naming the setting.
        """
        if self._rank == 0:
            require_writable(folder, key)
            mark = folder / f".seen-{uuid4().hex}"
            mark.touch()
            self._store.set("katlit/mark", mark.name)
            self.arrive("marked")
            try:
                self.wait("seen", self._number - 1)
            finally:
                mark.unlink(missing_ok=True)
            return
        self.wait("marked", 1)
        mark = folder / self._store.get("katlit/mark").decode()
        until = time.monotonic() + _LATE
        while not mark.exists():
            if time.monotonic() >= until:
                raise UserError(
                    f"{key}: {str(folder)!r} of machine {socket.gethostname()} is not that of the "
                    "first process; set it to a folder that all machines share"
                )
            time.sleep(_SECONDS)
        self.arrive("seen")


def _end_with(starter: int) -> None:
    """End this process when the one that has started it is gone, which would else never be noticed."""
    while os.getppid() == starter:
        time.sleep(1.0)
    os._exit(1)


def named_devices(setting: object) -> list[int] | None:
    """Return the numbers of the devices that `trainer.devices` names; None where it says how many, or all."""
    if isinstance(setting, str) and "," in setting:
        setting = [name for name in setting.split(",") if name.strip()]
    return list(map(int, setting)) if isinstance(setting, list) else None


def devices_of(
    visible: str | None, count: int, rank: int, number: int, named: Sequence[int] | None = None
) -> str | None:
    """Return which devices a process of a machine has to itself, as CUDA_VISIBLE_DEVICES wants it.

    Args:
        visible: CUDA_VISIBLE_DEVICES of all of them.
        count: Devices that they see.
        rank: The process among those of its machine.
        number: How many these are.
        named: Which of the devices they share, by their numbers; None: all.

    Returns:
        An equal share of the devices, neighbours; None where there are fewer than processes.
    """
    names = visible.split(",")[:count] if visible else [str(device) for device in range(count)]
    if names and named is not None:
        names = [names[device] for device in named]
    size = len(names) // number
    return ",".join(names[rank * size : (rank + 1) * size]) if size else None


def take_devices(rank: int, number: int, named: Sequence[int] | None) -> None:
    """Leave this process its share of the machine's devices, or of those named, before it has used any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    share = devices_of(visible, torch.cuda.device_count(), rank, number, named)
    if share is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share
