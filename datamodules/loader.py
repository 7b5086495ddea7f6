"""A sized loader of ready-made batches: deterministic by seed and epoch, sharded by rank, resumable."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypedDict, TypeVar

from torch import distributed

PlanT = TypeVar("PlanT")
BatchT = TypeVar("BatchT")


class LoaderState(TypedDict):
    """Where a loader stands, for checkpoints within an epoch."""

    epoch: int
    position: int


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes; (0, 1) outside a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def shard(plan: Sequence[PlanT], rank: int, world: int) -> list[PlanT]:
    """Return every `world`-th item; the plan is wrapped around so that every rank gets equally many.

    Unequal counts would leave some ranks waiting in a collective.
    """
    rounds = -(-len(plan) // world)
    return [plan[(index * world + rank) % len(plan)] for index in range(rounds)]


class EpochLoader(Generic[PlanT, BatchT]):
    """Turns an epoch's plan into batches, one at a time and in this process.

    Not a `DataLoader`, so Lightning adds no sampler of its own; sized, so it prefetches nothing before the
    first step. Lightning calls `set_epoch` through the `sampler` attribute, and saves and restores
    `state_dict`.

    Args:
        plan: Composes the batches of an epoch, for all ranks together.
        build: Turns an item of the plan into a batch.
    """

    def __init__(self, plan: Callable[[int], Sequence[PlanT]], build: Callable[[PlanT], BatchT]) -> None:
        self._plan = plan
        self._build = build
        self._epoch = 0
        self._position = 0
        self._resume_at: LoaderState | None = None
        self._composed: tuple[int, list[PlanT]] | None = None
        self.sampler = self
        self.batch_sampler = None  # Lightning looks for one wherever there is a sampler

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration composes."""
        self._epoch = epoch

    def _batches(self) -> list[PlanT]:
        """Compose an epoch once: its length is asked for several times."""
        if self._composed is None or self._composed[0] != self._epoch:
            self._composed = (self._epoch, shard(self._plan(self._epoch), *rank_and_world()))
        return self._composed[1]

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[BatchT]:
        batches = self._batches()
        resume, self._resume_at = self._resume_at, None
        # A checkpoint of a finished epoch says nothing about the next one.
        within = resume is not None and resume["epoch"] == self._epoch and resume["position"] < len(batches)
        self._position = resume["position"] if resume is not None and within else 0
        for item in batches[self._position :]:
            self._position += 1
            yield self._build(item)

    def state_dict(self) -> LoaderState:
        """Return the epoch and how many of its batches were handed out."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: LoaderState) -> None:
        """Continue the next iteration after the batches that a checkpoint had seen."""
        self._resume_at = state
