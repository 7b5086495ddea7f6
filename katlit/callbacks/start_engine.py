"""The start of a rollout engine with the weights that are being trained."""

from contextlib import nullcontext
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from katlit.engines.base import RolloutEngine
from katlit.errors import UserError
from katlit.output import naming_disk_faults, scratch_folder


def start_engine(engine: RolloutEngine, trainer: Trainer, pl_module: LightningModule) -> None:
    """Export the backbone to a folder that every rank sees, and start this rank's engine from it.

    Every rank must call it. The folder lies in the output folder, which machines share, and is gone
    afterwards: engines read it only while they start.

    Raises:
        UserError: on all ranks, where one of them does not see the folder.
    """
    root = Path(trainer.default_root_dir)
    scratch = scratch_folder(root, ".engine-") if trainer.is_global_zero else nullcontext()
    with scratch as local:
        directory = Path(trainer.strategy.broadcast(str(local))) / "model"
        with naming_disk_faults(root, "trainer.default_root_dir"):
            pl_module.backbone.export(directory)
        if not trainer.strategy.reduce_boolean_decision(directory.is_dir(), all=True):
            raise UserError(
                f"trainer.default_root_dir: {str(root)!r} of the first process is not seen by all; set it "
                "to a folder that all machines share"
            )
        engine.shares_device = pl_module.device.type != "cpu"
        engine.start(directory)
        trainer.strategy.barrier("engines are up")
