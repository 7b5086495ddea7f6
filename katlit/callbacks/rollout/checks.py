"""Settings of the rollouts that do not go with those of the model, the data or the trainer."""

from lightning.pytorch import LightningModule, Trainer

from katlit.callbacks.rollout.data import LooksAhead
from katlit.engines.base import SamplingParameters
from katlit.errors import UserError
from katlit.rollout.flat_groups import OnFlatGroups


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
        raise UserError(
            f"on_flat_groups: {on_flat_groups}, but model.estimator ({type(estimator).__name__}) learns from "
            "groups whose rollouts are all equally good; use keep, or bias_when_solved: false"
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
