"""A sized loader of ready-made batches: deterministic by seed and epoch, sharded by rank, resumable."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar, cast

from lightning.pytorch import Trainer

PlanT = TypeVar("PlanT")
BatchT = TypeVar("BatchT", bound=Mapping[str, Any])


class LoaderState(TypedDict):
    """Where a loader stands, for checkpoints within an epoch."""

    epoch: int
    position: int  # batches of all processes together, so that another number of them can go on


class Share(NamedTuple):
    """Which part of an epoch's batches a process gets, and how many of them belong together."""

    rank: int = 0
    world: int = 1  # processes that see different data; those of a tensor-parallel group see the same
    step: int = 1  # micro-batches of an optimizer step
    updates: int = 1  # optimizer steps that belong together

    @property
    def window(self) -> int:
        """Micro-batches that the first of them announces."""
        return self.step * self.updates


def share_of(trainer: Trainer | None, *, steps: bool = True, updates: int = 1) -> Share:
    """The share of this process; all of it without a trainer.

    Args:
        trainer: Knows the ranks and how many micro-batches it accumulates.
        steps: Whether the batches are trained on, in optimizer steps; else each stands alone.
        updates: Optimizer steps that belong together.
    """
    if trainer is None:
        return Share(updates=updates)
    ranks = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
    step = trainer.accumulate_grad_batches if steps else 1
    return Share(ranks["rank"], ranks["num_replicas"], step, updates)


def shard(plan: Sequence[PlanT], share: Share) -> list[PlanT]:
    """Return every `world`-th item; the plan is wrapped around so that every rank gets equally many.

    Unequal counts would leave some ranks waiting in a collective. Optimizer steps, and updates that belong
    together, are complete for the same reason: DeepSpeed counts micro-batches on, across epochs.
    """
    each = share.world * share.window
    number = -(-len(plan) // each) * share.window
    return [plan[(index * share.world + share.rank) % len(plan)] for index in range(number)]


_WHOLE = Share()


class EpochLoader(Generic[PlanT, BatchT]):
    """Turns an epoch's plan into batches, one at a time and in this process.

    Not a `DataLoader`, so Lightning adds no sampler of its own; sized, so it prefetches nothing before the
    first step. Lightning calls `set_epoch` through the `sampler` attribute, and saves and restores
    `state_dict`.

    Args:
        plan: Composes the batches of an epoch, for all ranks together.
        build: Turns an item of the plan into a batch, a dictionary.
        share: What of the plan this process gets. Of several micro-batches that belong together, the first
            carries them all, see `katlit.batch.StepBatch`.
    """

    def __init__(
        self,
        plan: Callable[[int], Sequence[PlanT]],
        build: Callable[[PlanT], BatchT],
        share: Share = _WHOLE,
    ) -> None:
        self._share = share
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
            self._composed = (self._epoch, shard(self._plan(self._epoch), self._share))
        return self._composed[1]

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[BatchT]:
        batches = self._batches()
        resume, self._resume_at = self._resume_at, None
        # Nothing is left of a finished epoch: Lightning then goes on to the next one, of which a checkpoint
        # says nothing.
        within = resume is not None and resume["epoch"] == self._epoch
        self._position = resume["position"] // self._share.world if resume is not None and within else 0
        window = self._share.window
        while self._position < len(batches):
            passed = self._position % window  # a checkpoint may lie between two updates
            for batch in self._window(batches[self._position - passed :][:window])[passed:]:
                self._position += 1
                yield batch

    @property
    def updates(self) -> int:
        """Optimizer steps that belong together."""
        return self._share.updates

    def upcoming(self) -> list[BatchT]:
        """The batches of the window after the present one, built anew; none at an epoch's end.

        What comes in the next epoch is not known before the present one is over: it may leave out prompts.
        """
        window = self._share.window
        start = -(-self._position // window) * window
        return [self._build(item) for item in self._batches()[start : start + window]]

    def _window(self, items: Sequence[PlanT]) -> list[BatchT]:
        """The batches of a window; the first lists all."""
        window = [self._build(item) for item in items]
        if self._share.window == 1:
            return window
        parts = [window, *([] for _ in window[1:])]
        marked = [{**batch, "window": part} for batch, part in zip(window, parts, strict=True)]
        return cast(list[BatchT], marked)

    def state_dict(self) -> LoaderState:
        """Return the epoch and how many of its batches all processes have handed out."""
        return {"epoch": self._epoch, "position": self._position * self._share.world}

    def load_state_dict(self, state: LoaderState) -> None:
        """Continue the next iteration after the batches that a checkpoint had seen."""
        self._resume_at = state
        self._epoch = state["epoch"]  # whose length tells Lightning whether anything is left of it
        self._composed = None  # what an epoch leaves out may have been restored since it was composed
