"""Where a resumed run goes on in its data: Lightning's counts of an epoch's batches, as this run has them."""

import logging
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Trainer

from katlit.errors import UserError
from katlit.parallel.collectives import data_ranks

logger = logging.getLogger(__name__)

_BEYOND = 2**62  # more batches than an epoch has


@runtime_checkable
class KnowsBatchChanges(Protocol):
    """Data whose batches follow from settings that a checkpoint keeps."""

    def batch_changes(self) -> dict[str, tuple[Any, Any]]:
        """Return what the checkpoint has of each setting that is another now, and what it is now."""


def find_place(trainer: Trainer, fit_loop: dict[str, Any], saved_by: int) -> None:
    """Turn the place in an epoch that a checkpoint names into the one where this run goes on.

    The batches that each process has seen become those of each one here. Where the epoch is now composed of
    other batches, none of which was seen as it is, the epoch starts anew; one that was over stays so.

    Args:
        trainer: Has the settings and the data; those have their state of the checkpoint.
        fit_loop: What the checkpoint says of Lightning's loop; changed in place.
        saved_by: Processes that saw different data when it was written.

    Raises:
        UserError: where the place lies within an optimizer step of this run.
    """
    progress = fit_loop["epoch_loop.batch_progress"]
    data = getattr(trainer, "datamodule", None)
    changes = data.batch_changes() if isinstance(data, KnowsBatchChanges) else {}
    if not changes:
        _recount(trainer, progress["current"], saved_by)
        return
    over = progress["is_last_batch"]
    _go_on_after(progress["current"], _BEYOND if over else 0)
    for state in fit_loop["state_dict"].get("combined_loader", []):
        state["position"] = 0
    if trainer.is_global_zero:
        told = ", ".join(f"{key}: the checkpoint has {old}, now {new}" for key, (old, new) in changes.items())
        logger.warning(
            "%s; %s",
            told,
            "the next epoch has the new batches"
            if over
            else "the present epoch starts anew with the new batches",
        )


def _recount(trainer: Trainer, progress: dict[str, int], saved_by: int) -> None:
    """Turn the batches that each of `saved_by` processes has seen of an epoch into those of each one here."""
    here = data_ranks(trainer)
    seen = progress["ready"] * saved_by
    step = here * trainer.accumulate_grad_batches
    if seen % step:
        raise UserError(
            f"ckpt_path: the checkpoint was written {seen} batches into an epoch, which is within a step"
            f" of {step} (processes x accumulate_grad_batches); go on with other numbers of them"
        )
    _go_on_after(progress, seen // here)


def _go_on_after(progress: dict[str, int], ready: int) -> None:
    """Count so many batches of the epoch as seen."""
    unfinished = progress["ready"] - progress["completed"]  # the batch after which it was written
    progress.update(ready=ready, started=ready, processed=ready, completed=ready - unfinished)
