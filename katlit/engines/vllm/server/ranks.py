"""What the trainer's processes tell each other about an engine that they share."""

import contextlib
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from katlit.errors import UserError


class Ranks:
    """The trainer's processes; one alone where `torch.distributed` does not run.

    Args:
        timeout: Seconds that one may wait for the others.
    """

    def __init__(self, timeout: float) -> None:
        # On the CPU whatever the trainer uses, so that no GPU waits and `closing` can be bounded.
        self._group = (
            dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
            if dist.is_initialized()
            else None
        )

    @property
    def first(self) -> bool:
        """Whether this process is the one that owns what is shared."""
        return self._group is None or dist.get_rank(self._group) == 0

    def agree(self, value: Any, error: str | None) -> Any:
        """The first process's value on all of them; a collective.

        Raises:
            UserError: on all of them, where one has an error.
        """
        if self._group is None:
            reports = [(value, error)]
        else:
            reports = [(None, None)] * dist.get_world_size(self._group)
            dist.all_gather_object(reports, (value, error), group=self._group)
        for _, found in reports:
            if found is not None:
                raise UserError(found)
        return reports[0][0]

    def wait(self) -> None:
        """Until all processes have come here; a collective."""
        if self._group is not None:
            dist.barrier(group=self._group)

    def closing(self, timeout: float) -> None:
        """Until all processes have come here, or have failed, or the time is up."""
        if self._group is None or not dist.is_initialized():
            return
        # RuntimeError: another process is gone, late, or waits somewhere else; ValueError: the group is
        with contextlib.suppress(RuntimeError, ValueError):
            dist.monitored_barrier(group=self._group, timeout=timedelta(seconds=timeout))
