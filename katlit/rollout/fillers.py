"""Who samples for the batches of prompts, which hold nothing to train on until then."""

from collections.abc import Mapping
from typing import Protocol as Interface
from typing import runtime_checkable

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from katlit.batch import Prompt
from katlit.errors import UserError

_FILES = {"test": "evaluate", "predict": "predict"}


@runtime_checkable
class Samples(Interface):
    """A callback that samples answers to the prompts of a batch."""

    samples_in: frozenset[str]  # those of fit, validate, test and predict in which it does


@runtime_checkable
class Judges(Samples, Interface):
    """A callback that rewards the answers, too."""

    def reference_problem(self, prompt: Prompt) -> str | None:
        """Why no answer to a prompt can be judged; None where one can."""


def require_prompts(trainer: Trainer, batch: Mapping[str, object]) -> None:
    """Refuse batches that have nothing to sample answers to.

    Args:
        trainer: The trainer, whose data module the message names.
        batch: A batch of its data.

    Raises:
        UserError: naming the data module to use.
    """
    if "prompts" not in batch:
        data = getattr(trainer, "datamodule", None) or trainer.train_dataloader
        raise UserError(
            f"data: {type(data).__name__} gives batches without prompts, but stage 3 samples answers to "
            "prompts; use katlit.datamodules.PromptData"
        )


def require_one_sampler(trainer: Trainer, stage: str) -> Samples:
    """The callback that samples; refuse to start where there is none, or two.

    Args:
        trainer: The trainer that the batches of prompts are for.
        stage: One of fit, validate, test and predict.

    Raises:
        UserError: naming what to add or leave out.
    """
    stage = TrainerFn(stage).value  # Lightning gives its own kind of text, which prints otherwise
    found = [
        callback
        for callback in trainer.callbacks
        if isinstance(callback, Samples) and stage in callback.samples_in
    ]
    name = _FILES.get(stage, "vllm")
    if not found:
        raise UserError(
            f"trainer.callbacks: none samples the prompts of {stage}; add -c configs/rollout/{name}.yaml"
        )
    if len(found) > 1:
        names = " and ".join(type(callback).__name__ for callback in found)
        raise UserError(
            f"trainer.callbacks: {names} both sample the prompts of {stage}; keep one, so give "
            "only one file of configs/rollout/"
        )
    return found[0]
