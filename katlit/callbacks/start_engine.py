"""The start of a rollout engine with the weights that are being trained."""

import tempfile
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from katlit.engines.base import RolloutEngine


def start_engine(engine: RolloutEngine, trainer: Trainer, pl_module: LightningModule) -> None:
    """Export the backbone to a folder that every rank sees, and start this rank's engine from it.

    Every rank must call it. The folder is gone afterwards: engines read it only while they start.
    """
    with tempfile.TemporaryDirectory(prefix="katlit-engine-") as local:
        directory = Path(trainer.strategy.broadcast(local)) / "model"
        pl_module.backbone.export(directory)
        engine.start(directory)
        trainer.strategy.barrier("engines are up")
