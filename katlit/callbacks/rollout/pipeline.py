"""From the prompts of a window to micro-batches that train: sample, check, lay out, report."""

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer

from katlit.callbacks.rollout.checks import require_judged
from katlit.callbacks.rollout.data import HasHistory, TakesOutcomes
from katlit.metrics.tally import known_means, means
from katlit.parallel.collectives import Peers, gathered
from katlit.rollout.flat_groups import OnFlatGroups, flat_groups
from katlit.rollout.requests import RolloutSettings
from katlit.rollout.statistics import shares, statistics, unjudged
from katlit.rollout.step_sampler import Step, StepRollouts, StepSampler
from katlit.rollout.stopwatch import Stopwatch
from katlit.rollout.tensors import fill
from katlit.rollout.window import MicroBatch
from katlit.text.protocol import Protocol

PARTS = ("sync", "sample", "reward", "layout")  # what the time before a step goes into


class Filled(NamedTuple):
    """A window's rollouts, ready to train on."""

    micro_batches: list[MicroBatch]
    statistics: dict[str, float]  # to be logged
    seconds: dict[str, float]  # for each of `PARTS`


class RolloutPipeline:
    """Samples and scores prompts in one go, and divides their rollouts among micro-batches.

    Args:
        sampler: Samples and scores the prompts of a step.
        settings: Reward, sampling settings and seed.
        row_tokens: Length of the longest packed rows.
        on_flat_groups: What to do with groups whose rollouts all earned the same.
        max_unjudged_share: Stop the run where more of a step's rollouts could not be judged.
    """

    def __init__(
        self,
        sampler: StepSampler,
        settings: RolloutSettings,
        row_tokens: int,
        on_flat_groups: OnFlatGroups,
        max_unjudged_share: float,
    ) -> None:
        self._sampler = sampler
        self._settings = settings
        self._row_tokens = row_tokens
        self._on_flat_groups = on_flat_groups
        self._max_unjudged_share = max_unjudged_share

    def __call__(
        self, trainer: Trainer, pl_module: LightningModule, step: Step, parts: int, sync: Callable[[], None]
    ) -> Filled:
        """Fill the micro-batches of a window; every rank must call it.

        Args:
            trainer: Its strategy carries the collectives, and its data module learns the outcomes.
            pl_module: The stage.
            step: Its prompts are those of the whole window.
            parts: Micro-batches of the window.
            sync: Sends the present weights to the engine; a collective.

        Raises:
            UserError: where too many rollouts could not be judged, or a prompt cannot be scored.
        """
        watch, protocol = Stopwatch(*PARTS), pl_module.backbone.protocol
        sampled = self._sample(trainer, pl_module, step, sync, watch)
        require_judged(sampled.first_round + sampled.later_rounds, self._max_unjudged_share, step.number)
        left_out = set() if self._on_flat_groups == "keep" else flat_groups(sampled.rollouts)
        with watch.time("layout"):
            micro_batches = self._lay_out(trainer, pl_module, step, parts, sampled, left_out)
            _record_outcomes(trainer, step, micro_batches[0])
        values = self._statistics(protocol, step, sampled, left_out) | _history(trainer)
        return Filled(micro_batches, values, watch.seconds)

    def _sample(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        step: Step,
        sync: Callable[[], None],
        watch: Stopwatch,
    ) -> StepRollouts:
        """The rollouts of all prompts; of those that several ranks see, each samples its share."""
        peers = Peers(pl_module.device_mesh)
        anywhere = partial(trainer.strategy.reduce_boolean_decision, all=False)
        protocol = pl_module.backbone.protocol
        return self._sampler.sample(step.share(peers), protocol, sync, anywhere, watch).together(peers)

    def _lay_out(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        step: Step,
        parts: int,
        sampled: StepRollouts,
        left_out: Collection[int],
    ) -> list[MicroBatch]:
        """The rollouts as tensors, with what is recorded of them."""
        origin = step.origin(self._settings.seed, trainer.global_rank, sampled.staleness)
        protocol, device = pl_module.backbone.protocol, pl_module.device
        return fill(
            parts, step.prompts, sampled.rollouts, sampled.probes, self._row_tokens, protocol, device, origin,
            left_out,
        )  # fmt: skip

    def _statistics(
        self, protocol: Protocol, step: Step, sampled: StepRollouts, left_out: Collection[int]
    ) -> dict[str, float]:
        """Means over all ranks, and what is the same on each; a collective."""
        first = sampled.first_round
        tallies = statistics(first, protocol, self._settings.reward.rewards) | shares(first, left_out)
        tallies |= unjudged(first + sampled.later_rounds)
        skipped = len(step.prompts) - len({rollout.group for rollout in first})
        values = means(gathered(tallies)) | {"skipped_prompts": float(skipped)}
        values |= known_means(gathered(self._sampler.engine.statistics()))
        if self._sampler.max_staleness:
            values |= {"staleness": float(sampled.staleness), "hidden_seconds": sampled.hidden_seconds}
        return values


def _record_outcomes(trainer: Trainer, step: Step, first: MicroBatch) -> None:
    """Tell data that ask for it; each micro-batch knows the outcomes of all rollouts."""
    if isinstance(data := getattr(trainer, "datamodule", None), TakesOutcomes):
        data.record_outcomes({"prompts": [*step.prompts]} | first)  # type: ignore[arg-type]


def _history(trainer: Trainer) -> dict[str, float]:
    """What the history of the data comes to, once it has this step's outcomes."""
    if isinstance(data := getattr(trainer, "datamodule", None), HasHistory):
        return {f"history/{name}": float(number) for name, number in data.history_counts().items()}
    return {}
