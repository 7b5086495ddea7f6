"""When an engine needs the weights of the policy."""

from lightning.pytorch import LightningModule, Trainer

from katlit.callbacks.start_engine import start_engine
from katlit.engines.base import RolloutEngine


class WeightSync:
    """Keeps an engine at the weights of the present optimizer step.

    Args:
        engine: Engine that samples; started with the first call.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine
        self._synced_at: int | None = None  # optimizer steps behind the engine's weights

    def __call__(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the engine, or send the weights if an optimizer step moved them; every rank must call it."""
        if self._synced_at is None:
            start_engine(self._engine, trainer, pl_module)
        elif self._synced_at != trainer.global_step:
            self._engine.sync_weights(pl_module.backbone.named_weights(self._engine.takes_mtp))
        self._synced_at = trainer.global_step

    def forget(self) -> None:
        """Have the next call start the engine, which has been closed."""
        self._synced_at = None
