"""Who samples for the batches of prompts, which hold nothing to train on until then."""

from typing import Protocol as Interface
from typing import runtime_checkable

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from katlit.errors import UserError

_FILES = {"test": "evaluate", "predict": "predict"}


@runtime_checkable
class Samples(Interface):
    """A callback that samples answers to the prompts of a batch."""

    samples_in: frozenset[str]  # those of fit, validate, test and predict in which it does


def require_one_sampler(trainer: Trainer, stage: str) -> None:
    """Refuse to start where nobody would sample, or two would.

    Args:
        trainer: The trainer that the batches of prompts are for.
        stage: One of fit, validate, test and predict.

    Raises:
        UserError: naming what to add or leave out.
    """
    stage = TrainerFn(stage).value  # Lightning gives its own kind of text, which prints otherwise
    found = [
        type(callback).__name__
        for callback in trainer.callbacks
        if isinstance(callback, Samples) and stage in callback.samples_in
    ]
    name = _FILES.get(stage, "vllm")
    if not found:
        raise UserError(
            f"trainer.callbacks: none samples the prompts of {stage}; add -c configs/rollout/{name}.yaml"
        )
    if len(found) > 1:
        raise UserError(
            f"trainer.callbacks: {' and '.join(found)} both sample the prompts of {stage}; keep one, so give "
            "only one file of configs/rollout/"
        )
