"""What the rollout callback asks of the data, beside batches of prompts."""

from typing import Protocol as Interface
from typing import runtime_checkable

from lightning.pytorch import Trainer

from katlit.batch import RolloutBatch


@runtime_checkable
class TakesOutcomes(Interface):
    """A DataModule that wants to know which prompts were solved."""

    def record_outcomes(self, batch: RolloutBatch) -> None:
        """Take note of a scored batch."""


@runtime_checkable
class HasHistory(Interface):
    """A DataModule that can tell what its history comes to."""

    def history_counts(self) -> dict[str, int]:
        """Counts to be logged as `history/…`, the same on every rank."""


@runtime_checkable
class LooksAhead(Interface):
    """A loader that knows what comes next."""

    def upcoming(self) -> list[RolloutBatch]:
        """The batches that are rolled out together after the present ones; none at an epoch's end."""

    def __len__(self) -> int:
        """Batches of the epoch."""

    @property
    def updates(self) -> int:
        """Optimizer steps on each batch of rollouts."""


def measure_epoch(trainer: Trainer) -> None:
    """Give an epoch that begins its own length, even where it is longer than the one before.

    History and curricula change the prompts from epoch to epoch; Lightning counts the batches of the first
    epoch, or of the one that a run goes on in, and would cut longer ones.

    Args:
        trainer: In `on_train_epoch_start`, and once more with the first batch: where a run goes on at the end
            of an epoch, Lightning leaves the former out for the next one.
    """
    loader, limit, loop = trainer.train_dataloader, trainer.limit_train_batches, trainer.fit_loop
    if not isinstance(loader, LooksAhead):
        return
    batches = min(limit, len(loader)) if isinstance(limit, int) else int(limit * len(loader))
    loop.max_batches = loop._data_fetcher.length = batches  # noqa: SLF001 (nothing public sets them)
    loop._combined_loader.limits = loop._combined_loader._iterator.limits = [batches]  # noqa: SLF001
