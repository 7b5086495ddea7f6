"""Several passes within a step under a loss scale: their gradients are scaled, and unscaled, as one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from tinymodel import fit, packed, tiny_backbone
from torch import Tensor

from katlit.stage.module import KatModule


class Stage(KatModule):
    """Plain next-token prediction, a pass for each row or one for all; by steps as large as the gradient."""

    passes: bool = True

    def target_numbers(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"tokens": batch["loss_mask"].sum()}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        number, rows = self.step_numbers(batch)["tokens"], len(batch["input_ids"])
        single = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(rows)]
        return self.in_passes(single if self.passes else [batch], lambda part: self.loss(part) / number)

    def loss(self, part: dict[str, Tensor]) -> Tensor:
        hidden = self.backbone(part["input_ids"], part["position_ids"]).main
        mask = part["loss_mask"][:, 1:]
        logits = self.backbone.logits(hidden[:, :-1])[mask].float()
        return F.cross_entropy(logits, part["input_ids"][:, 1:][mask], reduction="sum")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_passes_of_16_mixed_are_one_pass(tmp_path: Path) -> None:
    batches = [packed([[9, 7], [8], [5, 6]]) for _ in range(3)]

    def moved(*, passes: bool, scaled: bool) -> Tensor:
        stage = Stage(tiny_backbone(tmp_path, seed=3))
        stage.passes = passes
        stage.configure_model()
        before = torch.cat([weight.detach().flatten().clone() for weight in stage.parameters()])
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler)] if scaled else []
        fit(stage, batches, plugins=plugins, max_steps=3, gradient_clip_val=1.0)
        return torch.cat([weight.detach().flatten() for weight in stage.parameters()]) - before

    truth = moved(passes=False, scaled=False)
    assert truth.norm() > 0.1
    torch.testing.assert_close(moved(passes=True, scaled=False), truth, atol=1e-6, rtol=1e-5)
    half = moved(passes=True, scaled=True)
    assert (half - truth).norm() < 0.02 * truth.norm()
