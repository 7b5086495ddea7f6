"""Checks of the rollouts: of the settings as the training starts, and of what each step brings."""

import logging
from collections.abc import Sequence

from lightning.pytorch import LightningModule, Trainer

from katlit.callbacks.rollout.data import LooksAhead
from katlit.engines.base import SamplingParameters
from katlit.errors import UserError
from katlit.parallel.collectives import gathered
from katlit.rollout.flat_groups import OnFlatGroups
from katlit.rollout.types import Rollout

logger = logging.getLogger(__name__)

_TIMES_FLOOR = 10.0
_LEAST_GAP = 1e-4  # single steps of float32 differ by so much


def check_settings(
    trainer: Trainer,
    pl_module: LightningModule,
    sampling: SamplingParameters,
    max_staleness: int,
    on_flat_groups: OnFlatGroups,
) -> None:
    """Refuse what would sample, or train, something else than was meant.

    Args:
        trainer: As it starts to train.
        pl_module: The stage.
        sampling: Sampling settings of the sampler.
        max_staleness: Largest staleness that the sampler allows.
        on_flat_groups: What the sampler does with flat groups.

    Raises:
        UserError: naming the settings.
    """
    expected = getattr(pl_module, "temperature", sampling.temperature)
    if expected != sampling.temperature:
        raise UserError(
            f"sampling.temperature: {sampling.temperature}, but model.temperature is {expected}; "
            "log-probabilities can only be compared at one temperature"
        )
    if sampling.top_p < 1 or sampling.top_k > 0:
        raise UserError(
            f"sampling.top_p: {sampling.top_p}, sampling.top_k: {sampling.top_k}; training needs 1.0 and 0: "
            "the trainer's log-probabilities are of all tokens, the sampler's would be of those that are left"
        )
    estimator = getattr(pl_module, "estimator", None)
    if on_flat_groups != "keep" and getattr(estimator, "learns_from_flat_groups", False):
        by_bias = hasattr(estimator, "bias_when_solved")
        other = ", or set model.init_args.estimator.init_args.bias_when_solved to false" if by_bias else ""
        raise UserError(
            f"on_flat_groups: {on_flat_groups}, but model.estimator ({type(estimator).__name__}) learns from "
            f"groups whose rollouts are all equally good; use keep{other}"
        )
    loader = trainer.train_dataloader
    if isinstance(loader, LooksAhead):
        _check_updates(trainer, loader.updates, max_staleness)
    elif max_staleness:
        raise UserError(
            f"max_staleness: {max_staleness}, but a {type(loader).__name__} does not say which batches come "
            "next; use katlit.datamodules.PromptData, or 0"
        )


def _check_updates(trainer: Trainer, updates: int, max_staleness: int) -> None:
    if updates > 1 and max_staleness:
        raise UserError(
            f"max_staleness: {max_staleness}, but data.updates is {updates}; either several updates use the "
            "same rollouts (max_staleness: 0), or the next ones are sampled ahead (updates: 1)"
        )
    together, batches = updates * trainer.accumulate_grad_batches, trainer.num_training_batches
    if updates > 1 and batches % together:
        raise UserError(
            f"data.updates: {updates}, but an epoch has {batches} batches, no multiple of {together} "
            "(updates x accumulate_grad_batches); choose another limit_train_batches or fast_dev_run"
        )


def require_judged(rollouts: Sequence[Rollout], max_share: float, step: int) -> None:
    """Stop where too many of a step's rollouts could not be judged; every rank must call it.

    Raises:
        UserError: naming the first cause.
    """
    unjudged = [rollout.unjudged[0].reason for rollout in rollouts if rollout.unjudged]
    parts = gathered((len(unjudged), len(rollouts), unjudged[:1]))
    failed, number = (sum(part[index] for part in parts) for index in (0, 1))
    if failed > max_share * number:
        cause = next(reasons[0] for _, _, reasons in parts if reasons)
        raise UserError(
            f"{failed} of {number} rollouts of step {step} could not be judged, more than max_unjudged_share "
            f"{max_share}; the first: {cause}"
        )


def require_rollouts(prompts: int, skipped: int, context: int, max_tokens: int) -> None:
    """Stop a run that has nothing to train on; every rank must call it.

    Args:
        prompts: Prompts of this rank so far.
        skipped: Those of them that the engine had no room for.
        context: Longest prompt and response of the engine, in tokens.
        max_tokens: Longest response.

    Raises:
        UserError: where all prompts were skipped; where only some were, a line says how many.
    """
    prompts, skipped = (sum(numbers) for numbers in zip(*gathered((prompts, skipped)), strict=True))
    if not skipped:
        return
    why = f"are too long for a context of {context} tokens with {max_tokens} new ones"
    if skipped == prompts:
        raise UserError(
            f"nothing was trained on: all {prompts} prompts so far {why}; raise engine.max_context, lower "
            "sampling.max_tokens, or give shorter prompts"
        )
    logger.warning("rollouts: %d of %d prompts so far %s, and were skipped", skipped, prompts, why)


class GapLimit:
    """The largest `rollout/logprob_gap` of a step.

    Where weights could not be read back from the engine, also a few times the first gap, which is of weights
    that had just been loaded: the floor of this model, these engines and their types (our choice).

    Args:
        most: The largest in any case; None allows any.
    """

    def __init__(self, most: float | None) -> None:
        self._most = most
        self._floor: float | None = None

    def of(self, gap: float, *, verified: bool) -> float | None:
        """The limit of a step with this gap; `verified` says that the engine's weights were read back."""
        if self._floor is None and gap > 0:  # 0 where nothing was compared
            self._floor = gap
        if self._most is None or self._floor is None or verified:
            return self._most
        return min(self._most, max(_LEAST_GAP, _TIMES_FLOOR * self._floor))


def require_synced(gap: float, max_gap: float | None, step: int) -> None:
    """Stop where the engine's log-probabilities are too far from the trainer's.

    Args:
        gap: `rollout/logprob_gap` of the step, over all ranks.
        max_gap: The largest that is allowed; None allows any.
        step: Optimizer steps before this one.

    Raises:
        UserError: also where the gap is not a number.
    """
    if max_gap is not None and not gap <= max_gap:
        raise UserError(
            f"rollout/logprob_gap is {gap:.3g} at step {step}, above max_logprob_gap {max_gap:.3g}: the "
            "engine does not sample from the trained weights. Its dtype differs from the trainer's, or the "
            "weight sync is broken"
        )
