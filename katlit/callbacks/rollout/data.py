"""What rollouts ask of the data, beside batches of prompts."""

from typing import Protocol as Interface
from typing import runtime_checkable

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
