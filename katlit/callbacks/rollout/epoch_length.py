"""Epochs of different lengths."""

from lightning.pytorch import Trainer

from katlit.callbacks.rollout.data import LooksAhead


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
