"""Answers a set of prompts under `katlit predict`, and keeps the answers."""

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from katlit.batch import Prompt, RolloutBatch
from katlit.callbacks.start_engine import start_engine
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.errors import UserError
from katlit.output import replace_file, require_writable
from katlit.parallel.collectives import gathered
from katlit.rewards import Sample
from katlit.rollout.requests import answers
from katlit.rollout.types import Sampled
from katlit.text.protocol import Thinking


class Prediction(Callback):
    """Writes `answers.jsonl`: of each prompt id, question, mode, judge, thinking, answer, violation, tokens.

    The question is the prompt's last turn; `violation` is null in a well-formed response. Prompts too long
    for the engine are skipped and named in the log. Nothing is scored: no reference is needed.

    Args:
        engine: What samples; started when the prediction begins, closed at its end.
        sampling: How to sample. The stop token is the protocol's end of a turn.
        thinking: Leave the mode to the model (auto) or force it.
        directory: Where the file goes; the trainer's `default_root_dir` if not given.
        seed: Seed of sampling.
    """

    samples_in = frozenset({"predict"})

    def __init__(
        self,
        engine: RolloutEngine,
        sampling: SamplingParameters | None = None,
        thinking: Thinking = "auto",
        directory: str | None = None,
        seed: int = 0,
    ) -> None:
        self.engine = engine
        self.sampling = sampling or SamplingParameters()
        engine.require_room(self.sampling)
        self.thinking: Thinking = thinking
        self.directory = directory
        self.seed = seed
        self._prompts: list[Prompt] = []

    def _directory(self, trainer: Trainer) -> Path:
        return Path(self.directory or trainer.default_root_dir)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            require_writable(str(self._directory(trainer)), "Prediction.directory")

    @override
    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._prompts += batch["prompts"]

    @override
    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answer on every rank, then put the answers together."""
        start_engine(self.engine, trainer, pl_module)
        protocol, purposes = pl_module.backbone.protocol, {self.thinking: "predict"}
        own = answers(self.engine, protocol, self._prompts, purposes, self.sampling, self.seed)
        self.engine.close()
        rows = [_row(sampled, sample) for sampled, sample in own]
        if dist.is_initialized():
            # Loaders repeat prompts to give each rank equally many.
            rows = list({row["id"]: row for part in gathered(rows) for row in part}.values())
        if not rows:
            raise UserError(
                f"Prediction: none of {len(self._prompts)} prompts fits into a context of "
                f"{self.engine.max_context} tokens with {self.sampling.max_tokens} more; raise max_context"
            )
        if trainer.is_global_zero:
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            replace_file(self._directory(trainer) / "answers.jsonl", "\n".join(lines) + "\n")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.engine.close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.engine.close()


def _row(sampled: Sampled, sample: Sample) -> dict[str, Any]:
    parsed = sample.parsed
    return {
        "id": sample.prompt["id"],
        "question": sample.prompt["messages"][-1]["content"],
        "mode": None if parsed.mode is None else parsed.mode.value,
        "judge": parsed.judge,
        "think": parsed.think,
        "answer": parsed.answer,
        "violation": None if parsed.violation is None else parsed.violation.value,
        "tokens": len(sampled.completion.token_ids),
    }
