"""Collectives over the ranks of a run, and which ranks see the same data."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

ItemT = TypeVar("ItemT")


def data_ranks(trainer: Trainer) -> int:
    """How many ranks see different data."""
    ranks = trainer.distributed_sampler_kwargs
    return 1 if ranks is None else int(ranks["num_replicas"])


class Peers:
    """The ranks that see the same data as this one: its tensor-parallel group, or it alone.

    What one of them could do for all they share out, and then put together; so all have the very same.

    Args:
        mesh: The strategy's, where it has one.
    """

    def __init__(self, mesh: DeviceMesh | None) -> None:
        split = mesh is not None and mesh["tensor_parallel"].size() > 1
        self._group = mesh["tensor_parallel"].get_group() if mesh is not None and split else None
        self.number = 1 if self._group is None else dist.get_world_size(self._group)
        self.rank = 0 if self._group is None else dist.get_rank(self._group)

    def share(self, items: Sequence[ItemT]) -> Sequence[ItemT]:
        """This rank's items: every `number`-th."""
        return items[self.rank :: self.number]

    def together(self, own: ItemT) -> list[ItemT]:
        """What each of them gives, in the order of their ranks; a collective of theirs."""
        if self._group is None:
            return [own]
        parts: list[Any] = [None] * self.number
        dist.all_gather_object(parts, own, group=self._group)
        return parts


def add_over_data_ranks(values: Tensor, mesh: DeviceMesh | None) -> tuple[Tensor, int]:
    """Sum over the ranks that see different data; a collective.

    Args:
        values: Values of any shape, changed in place.
        mesh: The strategy's, where it has one; else all processes see different data.

    Returns:
        The sums, and how many such ranks there are.
    """
    if not dist.is_initialized():
        return values, 1
    group = None if mesh is None else mesh["data_parallel"].get_group()
    dist.all_reduce(values, group=group)
    return values, dist.get_world_size(group)


def add_over_ranks(values: Tensor) -> Tensor:
    """Sum of each value over all ranks, changed in place; a collective."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def largest_over_ranks(values: Tensor) -> Tensor:
    """The largest of each value over all ranks, changed in place; a collective."""
    if dist.is_initialized():
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def gathered(value: Any) -> list[Any]:
    """What each process has, in order of the ranks; a collective."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def most_over_ranks(number: int) -> int:
    """The largest of what each process has; a collective, and known to the host on each."""
    return int(max(gathered(number)))
