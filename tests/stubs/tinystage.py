"""A stage and its data, as small as they can be: a linear model and random tokens."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from katlit.callbacks.samples import COLUMNS


class TinyBackbone(nn.Module):
    protocol = SimpleNamespace(pad_id=0)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def export(self, directory: str, sampling: object = None, stage: object = None) -> None:
        torch.save(self.state_dict(), Path(directory) / "weights.pt")


class TinyStage(LightningModule):
    """Stage of the tests.

    Args:
        learning_rate: Of plain SGD.
        warmup: Some steps.
        note: Any text.
        api_key: Of some judge.
    """

    def __init__(
        self, learning_rate: float = 0.1, warmup: int = 0, note: str = "", api_key: str | None = None
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.backbone = TinyBackbone()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.backbone.layer(batch["input_ids"].float()).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


class TinyData(LightningDataModule):
    def __init__(self, cache: str | None = None, rows: int = 8) -> None:
        super().__init__()
        self.cache = cache
        self.rows = rows

    def prepare_data(self) -> None:
        if self.cache:
            Path(self.cache).write_text("labelled")

    def train_dataloader(self) -> DataLoader:
        row = {"input_ids": torch.tensor([1, 2, 3, 0]), "position_ids": torch.tensor([0, 1, 2, 0])}
        return DataLoader([row] * self.rows, batch_size=2)


class FakeRollouts(Callback):
    """Fills in the samples as the rollout callback does."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        sample = dict.fromkeys(COLUMNS, "<b>2</b>") | {"question": "1+1", "correct": True, "reward": 1.2}
        batch["samples"] = [sample | {"judge_advantage": 0.5, "answer_advantage": None}] * 2
