"""Samples the policy before each training step and fills the batch that the step will see."""

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol as Interface
from typing import runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from katlit.batch import Prompt, RolloutBatch
from katlit.errors import UserError
from katlit.protocol import Mode, Protocol, Thinking
from katlit.rewards import CompositeReward, Sample
from katlit.rollout.engine import RolloutEngine, SamplingParameters
from katlit.rollout.layout import Rollout, lay_out
from katlit.rollout.seeds import request_seed

logger = logging.getLogger(__name__)


@runtime_checkable
class TakesOutcomes(Interface):
    """A DataModule that wants to know which prompts were solved."""

    def record_outcomes(self, batch: RolloutBatch) -> None:
        """Take note of a scored batch."""


class RolloutSampler(Callback):
    """Rolls out each batch of prompts with an engine that always has the weights of the present step.

    Logs for every optimizer step, averaged over ranks: `rollout/reward`, `/accuracy`, `/format_valid`,
    `/truncated` (shares), `/think_rate` (of the rollouts whose mode was not forced), `/mean_tokens` (of the
    response, a forced judge counted), `/skipped_prompts`, `/sync_seconds`, `/sample_seconds`, and
    `/logprob_gap`, the mean absolute difference between the engine's and the trainer's log-probabilities of
    the sampled tokens.

    Prompts too long for the engine are skipped and counted; they have no rollouts in the batch.

    Args:
        engine: What samples.
        reward: Outcome reward; accuracy + 0.2 · format if not given.
        sampling: How to sample; the stop token is the protocol's end of a turn. The temperature must be the
            module's.
        samples: Rollouts of each prompt, G.
        forced_share: Share of them whose mode is forced by prefill, half think-on and half think-off, so that
            both modes are always seen (our choice).
        row_tokens: Length of the packed rows.
        max_logprob_gap: Stop the run where `rollout/logprob_gap` is above; null never stops. Engines in half
            precision have gaps around 0.01, broken syncs above 0.1.
        seed: Seed of all sampling.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        reward: CompositeReward | None = None,
        sampling: SamplingParameters | None = None,
        samples: int = 8,
        forced_share: float = 0.25,
        row_tokens: int = 1024,
        max_logprob_gap: float | None = 0.05,
        seed: int = 0,
    ) -> None:
        self.engine = engine
        self.reward = reward or CompositeReward()
        self.sampling = sampling or SamplingParameters()
        self.row_tokens = row_tokens
        self.max_logprob_gap = max_logprob_gap
        self.seed = seed
        self.thinking = _modes(samples, forced_share)
        self.skipped = 0  # prompts of the present step
        self._synced_at: int | None = None
        self._batch: RolloutBatch | None = None
        self._window: list[RolloutBatch] = []  # micro-batches of this optimizer step still to come
        self._parts = 1  # its micro-batches
        self._gap = 0.0
        self._statistics: dict[str, float] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the engine from the weights as they are now, a restored checkpoint's included."""
        expected = getattr(pl_module, "temperature", self.sampling.temperature)
        if expected != self.sampling.temperature:
            raise UserError(
                f"sampling.temperature: {self.sampling.temperature}, but model.temperature is {expected}; "
                "log-probabilities can only be compared at one temperature"
            )
        with tempfile.TemporaryDirectory(prefix="katlit-engine-") as local:
            directory = Path(trainer.strategy.broadcast(local)) / "model"
            pl_module.backbone.export(directory)
            self.engine.start(directory)
            trainer.strategy.barrier("engines are up")
        self._synced_at = trainer.global_step

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Bring the engine up to date, sample, score, fill `batch` in place.

        The micro-batches of an optimizer step are sampled together, before its first one.
        """
        window = batch.get("window", [batch])
        if window:
            self._fill(trainer, pl_module, window, f"{trainer.current_epoch}/{batch_idx}")
            self._window, self._parts, self._gap = list(window), len(window), 0.0
        self._batch = batch
        batch.update(self._window.pop(0))
        self._log(pl_module, self._statistics)

    def _fill(
        self, trainer: Trainer, pl_module: LightningModule, window: Sequence[RolloutBatch], step: str
    ) -> None:
        """Sample and score the prompts of all batches of an optimizer step in one go."""
        started = time.perf_counter()
        self.skipped = 0
        self._sync(trainer, pl_module)
        synced = time.perf_counter()
        protocol = pl_module.backbone.protocol
        rollouts = self._roll_out(protocol, [prompt for part in window for prompt in part["prompts"]], step)
        seconds = {"sync_seconds": synced - started, "sample_seconds": time.perf_counter() - synced}
        first = 0
        for part in window:
            groups = range(first, first := first + len(part["prompts"]))
            own = [replace(r, group=r.group - groups.start) for r in rollouts if r.group in groups]
            tensors = lay_out(own, self.row_tokens, protocol)
            part.update({name: tensor.to(pl_module.device) for name, tensor in tensors.items()})  # type: ignore[typeddict-item]
            part["samples"] = [_row(rollout, part["prompts"], protocol) for rollout in own]
            if isinstance(data := getattr(trainer, "datamodule", None), TakesOutcomes):
                data.record_outcomes(part)
        self._statistics = (
            _statistics(rollouts, protocol) | seconds | {"skipped_prompts": float(self.skipped)}
        )

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare engine and trainer before the optimizer moves the weights; complete the table's rows."""
        if self._batch is None or "logprob_gap" not in self._batch:
            return
        for sample, (judge, answer) in zip(
            self._batch["samples"], self._batch["advantages"].tolist(), strict=True
        ):
            sample |= {"judge_advantage": judge, "answer_advantage": answer}
        part = float(trainer.strategy.reduce(self._batch["logprob_gap"], reduce_op="mean"))
        self._gap += part / self._parts
        if self._window:
            return
        gap = self._gap
        self._log(pl_module, {"logprob_gap": gap})
        if self.max_logprob_gap is not None and not gap <= self.max_logprob_gap:
            raise UserError(
                f"rollout/logprob_gap is {gap:.3g} at step {trainer.global_step}, above max_logprob_gap "
                f"{self.max_logprob_gap}: the engine does not sample from the trained weights. Its dtype or "
                "its filters (top_p, top_k) differ from the trainer's, or the weight sync is broken"
            )

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: RolloutBatch,
        batch_idx: int,
    ) -> None:
        self._batch = None

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.engine.close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.engine.close()

    def _sync(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the weights if an optimizer step has moved them; every rank must call it."""
        if self._synced_at == trainer.global_step:
            return
        self.engine.sync_weights(pl_module.backbone.named_weights())
        self._synced_at = trainer.global_step

    def _roll_out(self, protocol: Protocol, prompts: Sequence[Prompt], step: str) -> list[Rollout]:
        """G rollouts of every prompt that fits, in order of the prompts."""
        requests: list[tuple[int, Thinking, list[int], int]] = []
        for group, prompt in enumerate(prompts):
            encoded = {mode: protocol.encode_prompt(prompt["messages"], mode) for mode in set(self.thinking)}
            if not all(self.engine.fits(ids, self.sampling.max_tokens) for ids in encoded.values()):
                self.skipped += 1
                logger.warning(
                    "prompt %s skipped: too long for a context of %d tokens with %d new ones",
                    prompt["id"], self.engine.max_context, self.sampling.max_tokens,
                )  # fmt: skip
                continue
            for index, mode in enumerate(self.thinking):
                seed = request_seed(self.seed, step, prompt["id"], index)
                requests.append((group, mode, encoded[mode], seed))
        if not requests:
            return []
        sampling = replace(self.sampling, stop_token_ids=[protocol.end_id])
        completions = self.engine.generate(
            [ids for _, _, ids, _ in requests], sampling, [seed for *_, seed in requests]
        )
        truncated = [completion.finish_reason == "length" for completion in completions]
        parsed = [
            protocol.parse_ids(completion.token_ids, mode, truncated=cut)
            for (_, mode, _, _), completion, cut in zip(requests, completions, truncated, strict=True)
        ]
        scores = self.reward(
            [
                Sample(prompts[group], response, cut)
                for (group, *_), response, cut in zip(requests, parsed, truncated, strict=True)
            ]
        )
        return [
            Rollout(group, mode, ids, completion, response, total, correct)
            for (group, mode, ids, _), completion, response, total, correct in zip(
                requests, completions, parsed, scores.total, scores.correct, strict=True
            )
        ]

    def _log(self, pl_module: LightningModule, values: dict[str, float]) -> None:
        rows = {f"rollout/{name}": value for name, value in values.items()}
        pl_module.log_dict(rows, on_step=True, on_epoch=False, sync_dist=True, batch_size=1)


def _modes(samples: int, forced_share: float) -> list[Thinking]:
    """How each of a prompt's rollouts is prompted."""
    if samples < 2 or not 0 <= forced_share <= 1:
        raise UserError(
            f"samples {samples}, forced_share {forced_share}; give at least 2 samples and a share from 0 to 1"
        )
    forced = round(samples * forced_share / 2)
    modes: list[Thinking] = ["on"] * forced
    modes += ["off"] * forced
    return modes + ["auto"] * (samples - 2 * forced)


def _text(rollout: Rollout, protocol: Protocol) -> str:
    """The response from `<judge>` on, the forced part included."""
    prefill = protocol.forced_prefill(Mode(rollout.thinking)) if rollout.forced else []
    return protocol.decode([*prefill, *rollout.completion.token_ids])


def _row(rollout: Rollout, prompts: Sequence[Prompt], protocol: Protocol) -> dict[str, object]:
    """What the table of samples shows, but for the advantages."""
    mode = rollout.parsed.mode
    return {
        "prompt": prompts[rollout.group]["messages"][-1]["content"],
        "text": _text(rollout, protocol),
        "mode": "none" if mode is None else f"{mode.value}{' (forced)' if rollout.forced else ''}",
        "correct": rollout.correct,
        "reward": rollout.reward,
    }


def _statistics(rollouts: Sequence[Rollout], protocol: Protocol) -> dict[str, float]:
    """Means over the rollouts; 0 where there is none."""
    chosen = [rollout for rollout in rollouts if not rollout.forced]
    prefills = {mode.value: len(protocol.forced_prefill(mode)) for mode in Mode}
    number = max(len(rollouts), 1)
    tokens = [len(rollout.completion.token_ids) + prefills.get(rollout.thinking, 0) for rollout in rollouts]
    return {
        "reward": sum(rollout.reward for rollout in rollouts) / number,
        "accuracy": sum(rollout.correct for rollout in rollouts) / number,
        "format_valid": sum(rollout.parsed.valid for rollout in rollouts) / number,
        "truncated": sum(rollout.truncated for rollout in rollouts) / number,
        "think_rate": sum(rollout.parsed.mode is Mode.THINK_ON for rollout in chosen) / max(len(chosen), 1),
        "mean_tokens": sum(tokens) / number,
    }
