"""Stage 3 says what it misses: prompts, or who samples answers to them."""

from pathlib import Path

import pytest
from lightning.pytorch import Callback, Trainer
from tinymodel import tiny_backbone
from tinyrollouts import SHAPE, prompt
from torch.utils.data import DataLoader

from katlit.callbacks import RolloutSampler
from katlit.engines import HFEngine, SamplingParameters
from katlit.errors import UserError
from katlit.modules import StepSRPO


def fit(directory: Path, batch: dict[str, object], callbacks: list[Callback]) -> None:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=callbacks, max_steps=1, default_root_dir=directory,
    )  # fmt: skip
    trainer.fit(StepSRPO(tiny_backbone(directory, SHAPE)), DataLoader([batch], batch_size=None))


def test_prompts_that_nobody_samples_answers_to_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^trainer.callbacks: none samples the prompts of fit; add -c"):
        fit(tmp_path, {"prompts": [prompt(0)]}, [])


@pytest.mark.parametrize("samples", [True, False])
def test_batches_without_prompts_are_refused(samples: bool, tmp_path: Path) -> None:
    sampler = RolloutSampler(HFEngine(), sampling=SamplingParameters(max_tokens=4))
    with pytest.raises(UserError, match=r"^data: DataLoader gives batches .*katlit.datamodules.PromptData$"):
        fit(tmp_path, {"input_ids": [[1, 2]]}, [sampler] if samples else [])
