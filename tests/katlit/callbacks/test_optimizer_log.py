from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tinystage import TinyStage
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from katlit.callbacks.optimizer_log import OptimizerLog
from katlit.parallel.local_parts import share_of_squares


class Rows(Callback):
    def __init__(self) -> None:
        self.norms: list[float] = []
        self.rows: list[dict[str, float]] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        gradients = torch.cat([weight.grad.flatten() for weight in pl_module.parameters()])
        self.norms.append(float(gradients.norm()))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_rate_and_norm_before_clipping_are_logged_once_a_step() -> None:
    rows = Rows()
    data = DataLoader([{"input_ids": torch.tensor([5, 6, 7, 8])}] * 4, batch_size=None)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_steps=2, accumulate_grad_batches=2, gradient_clip_val=0.01,
        log_every_n_steps=1, callbacks=[OptimizerLog(), rows],
    )  # fmt: skip
    trainer.fit(TinyStage(learning_rate=0.25), data)
    assert "train/gradient_norm" not in rows.rows[0]
    assert [row["train/gradient_norm"] for row in rows.rows[1::2]] == pytest.approx(rows.norms)
    assert min(rows.norms) > 0.1
    assert {row["train/learning_rate"] for row in rows.rows[1::2]} == {0.25}


def test_nothing_with_a_gradient_has_no_norm() -> None:
    assert share_of_squares([], torch.device("cpu")) == 0
    # half precision is squared and added up in float32
    assert share_of_squares([torch.full((1000,), 1.01).bfloat16()], torch.device("cpu")) == pytest.approx(
        1000 * 1.0078125**2
    )
