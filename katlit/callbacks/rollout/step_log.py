"""Logging of what is known of a step's rollouts."""

from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer

_OWN = ("rollout/", "throughput/")
_HOOK = "on_train_batch_start"


def log_rows(pl_module: LightningModule, values: Mapping[str, float]) -> None:
    """Log values of a step; names without a section are of the rollouts."""
    rows = {name if "/" in name else f"rollout/{name}": value for name, value in values.items()}
    pl_module.log_dict(rows, on_step=True, on_epoch=False, sync_dist=True, batch_size=1)


def log_statistics(trainer: Trainer, pl_module: LightningModule, values: Mapping[str, float]) -> None:
    """Log the statistics of a step, in the hook in which it begins.

    What steps before have logged and this one has not is forgotten: Lightning would log it again.
    """
    results = trainer._results or {}  # noqa: SLF001 (nothing public forgets)
    for key, result in [*results.items()]:
        if result.meta.fx == _HOOK and (name := result.meta.name).startswith(_OWN):
            del results[key]
            trainer.callback_metrics.pop(name, None)
    log_rows(pl_module, values)
