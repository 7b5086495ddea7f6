"""A small stage 3 in this process: prompts, a reward that random weights can win, what is seen of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from tinymodel import QWEN, tiny_backbone
from torch import Tensor

from katlit.batch import Prompt
from katlit.callbacks.rollout.sampler import RolloutSampler
from katlit.datamodules.loader import EpochLoader, share_of
from katlit.engines import HFEngine, SamplingParameters
from katlit.engines.base import Completion
from katlit.model.backbone import Backbone
from katlit.modules import StepSRPO
from katlit.rewards import CompositeReward, Reward, Sample, Verdict
from katlit.stage.optimization import Optimization

SHAPE = QWEN | {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}


class Whole:
    """Random weights never end a response by themselves; a cut one would carry no loss."""

    def generate(
        self, prompts: Any, sampling: Any, seeds: Any = None, finished: Any = None
    ) -> list[Completion]:
        tell = finished and (lambda index, one: finished(index, replace(one, finish_reason="stop")))
        completions = super().generate(prompts, sampling, seeds, tell)  # type: ignore[misc]
        return [replace(completion, finish_reason="stop") for completion in completions]


class Finishing(Whole, HFEngine): ...


class FirstLetter(Reward):
    """Rewards responses that start with a letter of the first half of the byte alphabet."""

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        letters = [(sample.parsed.judge or "~")[0] for sample in samples]
        return [Verdict(float(ord(letter) % 2), letter) for letter in letters]


@torch.no_grad()
def log_probs_of(backbone: Backbone, batch: dict[str, Any], temperature: float) -> Tensor:
    """Log-probability of each token [B, L] by a plain forward pass; 0 in the first column."""
    logits = backbone.logits(backbone(batch["input_ids"], batch["position_ids"]).main)
    chosen = (logits / temperature).log_softmax(-1)[:, :-1]
    log_probs = chosen.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return torch.cat([torch.zeros(len(log_probs), 1), log_probs], dim=1)


class Watch(Callback):
    """Keeps the batches and what was logged, and remembers the log-probabilities of a plain forward pass."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.truth: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.truth.append(log_probs_of(pl_module.backbone, batch, pl_module.temperature))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})


class Outcomes(LightningDataModule):
    def __init__(
        self, batches: list[list[Prompt]], validation: list[list[Prompt]] | None, updates: int
    ) -> None:
        super().__init__()
        self.updates = updates
        self.batches = batches
        if validation is not None:
            loader = EpochLoader(lambda epoch: validation, lambda prompts: {"prompts": prompts})
            self.val_dataloader = lambda: loader
        self.recorded: list[Any] = []

    def train_dataloader(self) -> Any:
        return EpochLoader(
            lambda epoch: self.batches,
            lambda prompts: {"prompts": prompts},
            share_of(self.trainer, updates=self.updates),
        )

    def record_outcomes(self, batch: Any) -> None:
        self.recorded.append((len(batch["prompts"]), batch["group_ids"].tolist(), batch["correct"].tolist()))


def prompt(number: int, words: int = 1) -> Prompt:
    return Prompt(
        id=f"p{number}", messages=[{"role": "user", "content": "ab " * words}], reference="1",
        verifier="match", domain="d", difficulty=1, metadata={},
    )  # fmt: skip


def train(
    directory: Path,
    engine: Any,
    batches: list[list[Prompt]],
    tied: bool = False,
    reward: CompositeReward | None = None,
    temperature: float = 0.7,
    parts: int = 1,
    updates: int = 1,
    validation: list[list[Prompt]] | None = None,
    fit: Mapping[str, Any] = MappingProxyType({}),
    resumed_from: Path | None = None,
    callbacks: Sequence[Callback] = (),
    backbone: Backbone | None = None,
    learning_rate: float = 3e-2,
    **settings: Any,
) -> tuple[Watch, Outcomes, RolloutSampler]:
    backbone = backbone or tiny_backbone(directory, SHAPE | {"tie_word_embeddings": tied})
    stage = StepSRPO(backbone, Optimization(learning_rate=learning_rate), temperature=temperature)
    reward = reward or CompositeReward({"accuracy": FirstLetter()}, {"accuracy": 1.0})
    sampler = RolloutSampler(
        engine, reward, SamplingParameters(temperature=0.7, max_tokens=12), row_tokens=96, **settings
    )
    watch, data = Watch(), Outcomes(batches, validation, updates)
    trainer = Trainer(
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        callbacks=[sampler, watch, *callbacks], default_root_dir=directory,
        accumulate_grad_batches=parts, num_sanity_val_steps=0,
        **{"max_epochs": 1, "enable_checkpointing": False, "logger": False} | fit,
    )  # fmt: skip
    trainer.fit(stage, data, ckpt_path=resumed_from)
    return watch, data, sampler


BATCHES = [[prompt(2 * step), prompt(2 * step + 1, 2)] for step in range(4)]
