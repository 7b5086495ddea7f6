import logging

import optimi
import pytest
import torch
from lightning.pytorch import Trainer
from tinystage import TinyData, TinyStage
from torch.optim import AdamW, Optimizer

from katlit.callbacks.rounding import STEPS, WarnWhereRounded

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Stage(TinyStage):
    """AdamW moves each weight by about the learning rate."""

    optimizer: type[Optimizer] = AdamW

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.parameters(), lr=self.learning_rate, weight_decay=0.0)


@pytest.mark.parametrize(
    ("dtype", "optimizer", "rate", "warned"),
    [
        (torch.bfloat16, AdamW, 1e-6, True),
        (torch.bfloat16, AdamW, 1e-1, False),
        (torch.bfloat16, optimi.AdamW, 1e-6, False),  # what a weight is owed moves
        (torch.float32, AdamW, 1e-6, False),
    ],
)
def test_a_learning_rate_that_rounding_takes_is_told_once(
    dtype: torch.dtype,
    optimizer: type[Optimizer],
    rate: float,
    warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(learning_rate=rate)
    stage.optimizer = optimizer
    stage.backbone.to(dtype)
    stage.backbone.layer.register_forward_pre_hook(lambda _, inputs: inputs[0].to(dtype))
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[WarnWhereRounded()], max_steps=STEPS + 2, max_epochs=-1,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "katlit"):
        trainer.fit(stage, datamodule=TinyData())
    said = [record for record in caplog.records if "lost to rounding" in record.message]
    assert len(said) == warned
