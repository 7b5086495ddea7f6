"""Samples the policy before each training step and fills the batch that the step will see."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from katlit.batch import Prompt, RolloutBatch
from katlit.callbacks.prompt_data import LooksAhead, TakesOutcomes
from katlit.callbacks.require_judged import require_judged
from katlit.callbacks.start_engine import start_engine
from katlit.errors import UserError
from katlit.metrics.policy import PolicyMetrics
from katlit.rewards import CompositeReward
from katlit.rollout.ahead import AheadState
from katlit.rollout.engine import RolloutEngine, SamplingParameters
from katlit.rollout.fill import fill
from katlit.rollout.layout import Rollout
from katlit.rollout.roll_out import RolloutSettings, forced_modes, policy_row, score, statistics
from katlit.rollout.step_sampler import Step, StepSampler
from katlit.rollout.stopwatch import Stopwatch
from katlit.strategies import Peers, gathered

logger = logging.getLogger(__name__)

PARTS = ("sync", "sample", "reward", "layout")  # what the time before a step goes into


class RolloutSampler(Callback):
    """Rolls out each batch of prompts with an engine that always has the weights of the present step.

    With `max_staleness: 1` the engine samples the prompts of the next optimizer step while the present one
    trains, all its micro-batches together, so they come from the weights before that update. The first step
    of an epoch is sampled when it is due, because the resampling of prompts waits for the epoch's end. A
    checkpoint waits for what is in flight, and keeps it.

    Logs for every optimizer step, averaged over ranks: `rollout/reward`, `/accuracy`, `/format_valid`,
    `/truncated`, `/unjudged` and of these `/unjudged_errors` and `/unjudged_timeouts` (shares), `/think_rate`
    (of the rollouts whose mode was not forced), `/mean_tokens` (of the response, a forced judge counted),
    `/skipped_prompts`, `/sync_seconds`, `/sample_seconds`, `/reward_seconds`, `/layout_seconds`, and
    `/logprob_gap`, the mean absolute difference between the engine's and the trainer's log-probabilities of
    the sampled tokens; where these are stale, of a few more that the engine samples after each sync
    (`katlit.rollout.probe`). `/sample_seconds` are those that the trainer waits. With `max_staleness: 1` also
    `/staleness`, the optimizer steps between the weights that sampled and those that are trained, and
    `/hidden_seconds` of sampling that nobody waited for. Where the engine drafts with the MTP modules, also
    `/draft_acceptance` (share) and `/tokens_per_pass`. Of each component of the reward, `reward/<component>`.

    Where there are validation prompts, each is answered once, left to decide, and `val/accuracy`,
    `/mean_tokens`, `/think_rate`, `/format_valid` and `/unjudged` are logged, over all ranks.

    Prompts too long for the engine are skipped and counted; they have no rollouts in the batch. Nor has the
    batch those that a reward could not judge. In a validation they count as not correct.

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
        max_staleness: 1 samples one optimizer step ahead; for an engine outside of the trainer's process.
        max_unjudged_share: Stop the run where more of a step's rollouts could not be judged.
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
        max_staleness: Literal[0, 1] = 0,
        max_unjudged_share: float = 0.1,
    ) -> None:
        self.engine = engine
        self.sampling = sampling or SamplingParameters()
        self._settings = RolloutSettings(reward or CompositeReward(), self.sampling, seed)
        self.row_tokens = row_tokens
        self.max_logprob_gap = max_logprob_gap
        self.max_staleness = max_staleness
        self.max_unjudged_share = max_unjudged_share
        thinking = forced_modes(samples, forced_share)
        self._sampler = StepSampler(engine, self._settings, thinking, max_staleness)
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
        loader = trainer.train_dataloader
        if self.max_staleness and not isinstance(loader, LooksAhead):
            raise UserError(
                f"max_staleness: {self.max_staleness}, but a {type(loader).__name__} does not say which "
                "batches come next; use datamodules.PromptData, or 0"
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
            following = self._following(trainer, batch_idx + len(window))
            step = Step(trainer.global_step, trainer.current_epoch, _prompts(window), following)
            self._fill(trainer, pl_module, window, step)
            self._window, self._parts, self._gap = list(window), len(window), 0.0
        self._batch = batch
        batch.update(self._window.pop(0))
        self._log(pl_module, self._statistics)

    def _following(self, trainer: Trainer, batches: int) -> list[Prompt]:
        """The prompts of the step after one that ends after so many batches of the epoch."""
        last = batches >= trainer.num_training_batches or trainer.global_step + 1 == trainer.max_steps
        if last or not self.max_staleness:
            return []
        return _prompts(trainer.train_dataloader.upcoming())

    def _fill(
        self, trainer: Trainer, pl_module: LightningModule, window: Sequence[RolloutBatch], step: Step
    ) -> None:
        """Sample and score the prompts of all batches of an optimizer step in one go."""
        protocol, watch = pl_module.backbone.protocol, Stopwatch(*PARTS)
        peers = Peers(pl_module.device_mesh)
        mine = replace(step, prompts=peers.share(step.prompts), following=peers.share(step.following))
        got = self._sampler.sample(mine, protocol, lambda: self._sync(trainer, pl_module), watch)
        with watch.time("reward"):
            scored = score(got.sampled, protocol, mine.prompts, self._settings.reward)
            rollouts = _in_order(peers.together(scored))
            require_judged(rollouts, self.max_unjudged_share, step.number)
        probes = None
        if got.probes is not None:
            probes = [one for part in peers.together(got.probes) for one in part]
        with watch.time("layout"):
            origin = step.origin(self._settings.seed, got.staleness)
            fill(window, rollouts, probes, self.row_tokens, protocol, pl_module.device, origin)
            if isinstance(data := getattr(trainer, "datamodule", None), TakesOutcomes):
                for part in window:
                    data.record_outcomes(part)
        self.seconds = watch.seconds
        self.skipped = len(step.prompts) - len({rollout.group for rollout in rollouts})
        components = self._settings.reward.rewards
        self._statistics = statistics(rollouts, protocol, components) | {
            "skipped_prompts": float(self.skipped)
        }
        self._statistics |= {f"{name}_seconds": value for name, value in self.seconds.items()}
        self._statistics |= self.engine.statistics()
        if self.max_staleness:
            self._statistics |= {"staleness": float(got.staleness), "hidden_seconds": got.hidden}

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
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the rollouts of the next step: the weights that sampled them are gone after the update."""
        if self.max_staleness:
            checkpoint["rollouts_ahead"] = gathered(self._sampler.ahead.state())

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states: list[AheadState | None] = checkpoint.get("rollouts_ahead", [])
        if states and (not self.max_staleness or len(states) != trainer.world_size):
            logger.warning(
                "the checkpoint's rollouts of the next step are not used: max_staleness or processes differ"
            )
        elif states and (state := states[trainer.global_rank]) is not None:
            self._sampler.ahead.restore(state)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()
        self._synced_at = None

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the engine up to date; `katlit validate` starts it."""
        self._sampler.ahead.finish()
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
        rollouts = score(self._sampler.answer(prompts, protocol), protocol, prompts, self._settings.reward)
        rows = [policy_row(rollout, protocol) for rollout in rollouts]
        columns = torch.tensor(rows, dtype=torch.int64, device=pl_module.device).reshape(-1, 5)
        self._policy.update(*columns.unbind(dim=1))

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log_dict({f"val/{name}": value for name, value in self._policy.compute().items()})
        self.engine.sleep()

    def _close(self) -> None:
        self.engine.close()
        self._settings.reward.close()
        self._sampler.ahead.close()

    def _sync(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the engine, or send the weights if an optimizer step moved them; every rank must call it."""
        if self._synced_at is None:
            start_engine(self.engine, trainer, pl_module)
        elif self._synced_at != trainer.global_step:
            self.engine.sync_weights(pl_module.backbone.named_weights(self.engine.takes_mtp))
        self._synced_at = trainer.global_step

    def _log(self, pl_module: LightningModule, values: dict[str, float]) -> None:
        rows = {name if "/" in name else f"rollout/{name}": value for name, value in values.items()}
        pl_module.log_dict(rows, on_step=True, on_epoch=False, sync_dist=True, batch_size=1)


def _prompts(batches: Sequence[RolloutBatch]) -> list[Prompt]:
    return [prompt for batch in batches for prompt in batch["prompts"]]


def _in_order(parts: Sequence[Sequence[Rollout]]) -> list[Rollout]:
    """The rollouts of every n-th prompt, for each of n ranks, as those of all prompts."""
    all_of_them = [
        replace(rollout, group=rollout.group * len(parts) + rank)
        for rank, part in enumerate(parts)
        for rollout in part
    ]
    return sorted(all_of_them, key=lambda rollout: rollout.group)
