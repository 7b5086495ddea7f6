"""Samples the policy before each training step and fills the batch that the step will see."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol as Interface
from typing import runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from katlit.batch import RolloutBatch
from katlit.callbacks.start_engine import start_engine
from katlit.errors import UserError
from katlit.metrics.policy import PolicyMetrics
from katlit.protocol import Mode, Thinking
from katlit.rewards import CompositeReward
from katlit.rollout.engine import RolloutEngine, SamplingParameters
from katlit.rollout.layout import Rollout, lay_out
from katlit.rollout.roll_out import RolloutSettings, response_tokens, sample, score, statistics, table_row
from katlit.strategies import Peers

PARTS = ("sync", "sample", "reward", "layout")  # what the time before a step goes into


@runtime_checkable
class TakesOutcomes(Interface):
    """A DataModule that wants to know which prompts were solved."""

    def record_outcomes(self, batch: RolloutBatch) -> None:
        """Take note of a scored batch."""


class RolloutSampler(Callback):
    """Rolls out each batch of prompts with an engine that always has the weights of the present step.

    Logs for every optimizer step, averaged over ranks: `rollout/reward`, `/accuracy`, `/format_valid`,
    `/truncated` (shares), `/think_rate` (of the rollouts whose mode was not forced), `/mean_tokens` (of the
    response, a forced judge counted), `/skipped_prompts`, `/sync_seconds`, `/sample_seconds`,
    `/reward_seconds`, `/layout_seconds`, and `/logprob_gap`, the mean absolute difference between the
    engine's and the trainer's log-probabilities of the sampled tokens.

    Where there are validation prompts, each is answered once, left to decide, and `val/accuracy`,
    `/mean_tokens`, `/think_rate` and `/format_valid` are logged, over all ranks.

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
        self.sampling = sampling or SamplingParameters()
        self._settings = RolloutSettings(reward or CompositeReward(), self.sampling, seed)
        self.row_tokens = row_tokens
        self.max_logprob_gap = max_logprob_gap
        self.thinking = _modes(samples, forced_share)
        self.skipped = 0  # prompts of the present step
        self.seconds: dict[str, float] = {}  # of the present step, for each of `PARTS`
        self._synced_at: int | None = None
        self._policy = PolicyMetrics()  # of the present validation
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
        self._sync(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Bring the engine up to date, sample, score, fill `batch` in place.

        The micro-batches of an optimizer step are sampled together, before its first one.
        """
        window = batch.get("window", [batch])
        if window:
            self._fill(trainer, pl_module, window, str(trainer.current_epoch))
            self._window, self._parts, self._gap = list(window), len(window), 0.0
        self._batch = batch
        batch.update(self._window.pop(0))
        self._log(pl_module, self._statistics)

    def _fill(
        self, trainer: Trainer, pl_module: LightningModule, window: Sequence[RolloutBatch], step: str
    ) -> None:
        """Sample and score the prompts of all batches of an optimizer step in one go."""
        times = [time.perf_counter()]
        self._sync(trainer, pl_module)
        times.append(time.perf_counter())
        protocol = pl_module.backbone.protocol
        prompts = [prompt for part in window for prompt in part["prompts"]]
        peers = Peers(pl_module.device_mesh)
        mine = peers.share(prompts)
        sampled = sample(self.engine, protocol, mine, self.thinking, self._settings, step)
        times.append(time.perf_counter())
        rollouts = _in_order(peers.together(score(sampled, protocol, mine, self._settings.reward)))
        times.append(time.perf_counter())
        self.skipped = len(prompts) - len({rollout.group for rollout in rollouts})
        first = 0
        for part in window:
            groups = range(first, first := first + len(part["prompts"]))
            own = [replace(r, group=r.group - groups.start) for r in rollouts if r.group in groups]
            tensors = lay_out(own, self.row_tokens, protocol)
            part.update({name: tensor.to(pl_module.device) for name, tensor in tensors.items()})  # type: ignore[typeddict-item]
            part["samples"] = [table_row(rollout, part["prompts"], protocol) for rollout in own]
            if isinstance(data := getattr(trainer, "datamodule", None), TakesOutcomes):
                data.record_outcomes(part)
        times.append(time.perf_counter())
        self.seconds = {name: end - start for name, (start, end) in zip(PARTS, pairwise(times), strict=True)}
        self._statistics = statistics(rollouts, protocol) | {"skipped_prompts": float(self.skipped)}
        self._statistics |= {f"{name}_seconds": value for name, value in self.seconds.items()}

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare engine and trainer before the optimizer moves the weights; complete the table's rows."""
        if self._batch is None or "logprob_gap" not in self._batch:
            return
        for row, (judge, answer) in zip(
            self._batch["samples"], self._batch["advantages"].tolist(), strict=True
        ):
            row |= {"judge_advantage": judge, "answer_advantage": answer}
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
        self._synced_at = None

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.engine.close()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the engine up to date; `katlit validate` starts it."""
        self._sync(trainer, pl_module)
        self._policy = PolicyMetrics().to(pl_module.device)

    @override
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: RolloutBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """One response to each prompt, left to decide."""
        protocol = pl_module.backbone.protocol
        prompts = batch["prompts"]
        sampled = sample(self.engine, protocol, prompts, ["auto"], self._settings, "validation")
        rollouts = score(sampled, protocol, prompts, self._settings.reward)
        rows = [
            (r.correct, response_tokens(r, protocol), r.parsed.mode is Mode.THINK_ON, r.parsed.valid)
            for r in rollouts
        ]
        columns = torch.tensor(rows, dtype=torch.int64, device=pl_module.device).reshape(-1, 4)
        self._policy.update(*columns.unbind(dim=1))

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log_dict({f"val/{name}": value for name, value in self._policy.compute().items()})

    def _sync(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the engine, or send the weights if an optimizer step moved them; every rank must call it."""
        if self._synced_at is None:
            start_engine(self.engine, trainer, pl_module)
        elif self._synced_at != trainer.global_step:
            self.engine.sync_weights(pl_module.backbone.named_weights())
        self._synced_at = trainer.global_step

    def _log(self, pl_module: LightningModule, values: dict[str, float]) -> None:
        rows = {f"rollout/{name}": value for name, value in values.items()}
        pl_module.log_dict(rows, on_step=True, on_epoch=False, sync_dist=True, batch_size=1)


def _in_order(parts: Sequence[Sequence[Rollout]]) -> list[Rollout]:
    """The rollouts of every n-th prompt, for each of n ranks, as those of all prompts."""
    all_of_them = [
        replace(rollout, group=rollout.group * len(parts) + rank)
        for rank, part in enumerate(parts)
        for rollout in part
    ]
    return sorted(all_of_them, key=lambda rollout: rollout.group)


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
