"""Samples the policy before each training step and fills the batch that the step will see."""

import logging
from functools import partial
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from katlit.batch import Prompt, RolloutBatch
from katlit.callbacks.rollout.checks import GapLimit, check_settings, require_rollouts, require_synced
from katlit.callbacks.rollout.data import measure_epoch
from katlit.callbacks.rollout.pipeline import PARTS, RolloutPipeline
from katlit.callbacks.rollout.step_log import log_rows, log_statistics
from katlit.callbacks.rollout.weight_sync import WeightSync
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.errors import UserError, require
from katlit.metrics.policy import PolicyMetrics
from katlit.parallel.collectives import gathered
from katlit.rewards import CompositeReward
from katlit.rollout.fillers import require_prompts
from katlit.rollout.flat_groups import OnFlatGroups
from katlit.rollout.lookahead import AheadState
from katlit.rollout.requests import RolloutSettings, forced_modes
from katlit.rollout.scoring import score
from katlit.rollout.statistics import policy_columns
from katlit.rollout.step_sampler import Step, StepSampler
from katlit.rollout.types import prompts_of
from katlit.rollout.window import RolloutWindow

logger = logging.getLogger(__name__)


class RolloutSampler(Callback):
    """Rolls out each batch of prompts with an engine that always has the weights of the present step.

    With `max_staleness: 1` the engine samples the prompts of the next optimizer step while the present one
    trains, all its micro-batches together, so they come from the weights before that update. The first step
    of an epoch is sampled when it is due, because the resampling of prompts waits for the epoch's end. A
    checkpoint waits for what is in flight, and keeps it.

    Where the data asks for several updates on each batch of rollouts (`updates` of
    `katlit.datamodules.PromptData`), all their prompts are sampled together before the first. The rollouts
    are divided among the updates, and among their micro-batches, by tokens. A checkpoint between two updates
    keeps those that are left.

    Logs for every optimizer step, averaged over ranks: `rollout/reward`, `/accuracy`, `/format_valid`,
    `/malformed_calls` (of tools, a share), `/truncated`, `/unjudged` and of these `/unjudged_errors` and
    `/unjudged_timeouts` (shares), `/think_rate` (of the rollouts whose mode was not forced), `/mean_tokens`
    (of the response, a forced judge counted), all of what was sampled first; `/flat_groups`,
    `/left_out_groups` (shares), `/skipped_prompts`, `/sync_seconds`, `/sample_seconds` (that the trainer
    waits), `/reward_seconds`, `/layout_seconds`, and `/logprob_gap`, the mean absolute difference between the
    engine's and the trainer's log-probabilities of the sampled tokens; where these are stale, of a few more
    that the engine samples after each sync (`katlit.rollout.probe`). With `max_staleness: 1` also
    `/staleness`, the optimizer steps between the weights that sampled and those that are trained, and
    `/hidden_seconds` of sampling that nobody waited for. Where the engine drafts with the MTP modules, also
    `/draft_acceptance` (share) and `/tokens_per_pass`, of all completions since the step before: with
    `max_staleness: 1`, of what has just been sampled ahead. Of each component of the reward,
    `reward/<component>`, of what was sampled first. Data with a history also log `history/…`
    (`katlit.datamodules.history`).

    Where there are validation prompts, each is answered once, left to decide, and `val/accuracy`,
    `/mean_tokens`, `/think_rate`, `/format_valid` and `/unjudged` are logged, over all ranks.

    Prompts too long for the engine are skipped and counted; they have no rollouts in the batch. Nor has the
    batch those that a reward could not judge. In a validation they count as not correct.

    Args:
        engine: What samples.
        reward: Outcome reward; accuracy + 0.2 · format if not given.
        sampling: Sampling settings; the stop token is the protocol's end of a turn. The temperature must be
            the module's, and no token may be filtered out (top_p 1, top_k 0).
        samples: Rollouts of each prompt, G.
        forced_share: Share of them whose mode is forced by prefill, half think-on and half think-off, so that
            both modes are always seen (our choice): to the nearest number, but at least one of each; 0 forces
            none.
        row_tokens: Length of the longest packed rows.
        max_logprob_gap: Stop the run where `rollout/logprob_gap` is above, or above ten times the first one
            where the engine's weights cannot be compared with the trainer's; null never stops. Engines in
            half precision have gaps around 0.01.
        seed: Seed of all sampling.
        max_staleness: 1 samples one optimizer step ahead; for an engine outside of the trainer's process.
        max_unjudged_share: Stop the run where more of a step's rollouts could not be judged.
        on_flat_groups: What to do with groups whose rollouts all earned the same, so that their advantages
            are 0: `keep` them in the mean over tokens, `skip` them in training, or `resample` them and skip
            what is flat still.
        extra_rounds: How often at most `resample` samples a flat group anew.
    """

    samples_in = frozenset({"fit", "validate"})

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
        on_flat_groups: OnFlatGroups = "keep",
        extra_rounds: int = 2,
    ) -> None:
        if extra_rounds < 1:
            raise UserError(f"extra_rounds: {extra_rounds}; give at least 1, or on_flat_groups: skip")
        require(row_tokens >= 1, "row_tokens", row_tokens, "at least 1")
        require(0 <= max_unjudged_share <= 1, "max_unjudged_share", max_unjudged_share, "a share from 0 to 1")
        require(
            max_logprob_gap is None or max_logprob_gap > 0,
            "max_logprob_gap",
            max_logprob_gap,
            "a number above 0, or null",
        )
        self.engine = engine
        self.sampling = sampling or SamplingParameters()
        engine.require_room(self.sampling)
        self._settings = RolloutSettings(reward or CompositeReward(), self.sampling, seed)
        self.max_logprob_gap = max_logprob_gap
        self.max_staleness = max_staleness
        thinking = forced_modes(samples, forced_share)
        self.on_flat_groups = on_flat_groups
        rounds = extra_rounds if on_flat_groups == "resample" else 0
        self._sampler = StepSampler(engine, self._settings, thinking, max_staleness, rounds)
        self._pipeline = RolloutPipeline(
            self._sampler, self._settings, row_tokens, on_flat_groups, max_unjudged_share
        )
        self.seconds: dict[str, float] = {}  # of the present step, for each of `PARTS`
        self._sync = WeightSync(engine)
        self._gap_limit = GapLimit(max_logprob_gap)
        self._policy = PolicyMetrics()  # of the present validation
        self._batch: RolloutBatch | None = None
        self._window = RolloutWindow()
        self._gap = 0.0  # of the present optimizer step
        self._prompts = self._skipped = 0  # so far

    def reference_problem(self, prompt: Prompt) -> str | None:
        """Why no answer to a prompt can be judged; None where one can."""
        return self._settings.reward.reference_problem(prompt)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the engine from the weights as they are now, a restored checkpoint's included."""
        check_settings(trainer, pl_module, self.sampling, self.max_staleness, self.on_flat_groups)
        self._sync(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measure_epoch(trainer)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        """Bring the engine up to date, sample, score, fill `batch` in place.

        The prompts of a window are sampled together, before its first optimizer step.
        """
        require_prompts(trainer, batch)
        if batch_idx == 0:
            measure_epoch(trainer)
        window = batch.get("window", [batch])
        self._window.expect(new=bool(window))
        if window:
            following = self._following(trainer, batch_idx + len(window))
            step = Step(trainer.global_step, trainer.current_epoch, prompts_of(window), following)
            self._sample(trainer, pl_module, len(window), step)
        elif not self._window.in_step:
            self._pass_time(dict.fromkeys(PARTS, 0.0))
        self._batch = batch
        batch.update(self._window.take(pl_module.device))  # type: ignore[typeddict-item]
        log_statistics(trainer, pl_module, self._window.statistics)

    def _pass_time(self, seconds: dict[str, float]) -> None:
        """Keep what an optimizer step spends on rollouts; the later ones of a window spend nothing."""
        self.seconds = seconds
        self._window.statistics |= {f"{name}_seconds": value for name, value in seconds.items()}

    def _following(self, trainer: Trainer, batches: int) -> list[Prompt]:
        """The prompts of the step after one that ends after so many batches of the epoch."""
        last = batches >= trainer.num_training_batches or trainer.global_step + 1 == trainer.max_steps
        if last or not self.max_staleness:
            return []
        return prompts_of(trainer.train_dataloader.upcoming())

    def _sample(self, trainer: Trainer, pl_module: LightningModule, parts: int, step: Step) -> None:
        """Open the window of a step's rollouts, of as many micro-batches as there are parts."""
        filled = self._pipeline(trainer, pl_module, step, parts, partial(self._sync, trainer, pl_module))
        self._prompts += len(step.prompts)
        self._skipped += int(filled.statistics["skipped_prompts"])
        each = min(parts, trainer.accumulate_grad_batches)
        self._window.open(filled.micro_batches, each, filled.statistics)
        self._pass_time(filled.seconds)

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
        self._gap += part / self._window.each
        if self._window.in_step:
            return
        gap, self._gap = self._gap, 0.0
        log_rows(pl_module, {"logprob_gap": gap})
        limit = self._gap_limit.of(gap, verified=self._sync.verified)
        require_synced(gap, limit, trainer.global_step)

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
        self._window.complete_step()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_rollouts(self._prompts, self._skipped, self.engine.max_context, self.sampling.max_tokens)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep rollouts that are still to be trained on: the weights that sampled them are gone."""
        checkpoint["rollout_window"] = gathered(self._window.state())
        if self.max_staleness:
            checkpoint["rollouts_ahead"] = gathered(self._sampler.ahead.state())

    @override
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.training:
            self._window.restore(checkpoint.get("rollout_window", []), trainer.global_rank)
        states: list[AheadState | None] = checkpoint.get("rollouts_ahead", [])
        if states and (not self.max_staleness or len(states) != trainer.world_size):
            logger.warning(
                "the checkpoint's rollouts of the next step are not used, for max_staleness or the number of "
                "processes has changed; that step samples anew"
            )
        elif states and (state := states[trainer.global_rank]) is not None:
            self._sampler.ahead.restore(state)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()
        self._sync.forget()
        self._window = RolloutWindow()

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
        require_prompts(trainer, batch)
        protocol = pl_module.backbone.protocol
        prompts = batch["prompts"]
        rollouts = score(self._sampler.answer(prompts, protocol), protocol, prompts, self._settings.reward)
        self._policy.update(*policy_columns(rollouts, protocol, pl_module.device))

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log_dict({f"val/{name}": value for name, value in self._policy.compute().items()})
        self.engine.statistics()  # those of the validation are not the next step's
        self.engine.sleep()

    def _close(self) -> None:
        self.engine.close()
        self._settings.reward.close()
        self._sampler.ahead.close()
