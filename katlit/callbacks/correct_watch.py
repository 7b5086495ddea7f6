"""Whether any rollout is correct as the training begins; a warning where none is."""

import logging
from collections.abc import Collection
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from katlit.batch import RolloutBatch
from katlit.callbacks.step_callback import StepCallback
from katlit.errors import UserError
from katlit.parallel.collectives import gathered

logger = logging.getLogger(__name__)


class CorrectWatch(StepCallback):
    """Warns once where no rollout of the first optimizer steps was correct, on any rank (our choice).

    Then the rollouts of a prompt differ in format at most. A verifier that does not read the answers looks
    like that, and so does a policy that knows none.

    Args:
        steps: Optimizer steps that are watched.
    """

    def __init__(self, steps: int = 5) -> None:
        if steps < 1:
            raise UserError(f"CorrectWatch: steps {steps}; give at least 1")
        self.steps = steps
        self._left = steps  # to be watched; 0 as soon as a rollout was correct

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch) -> None:
        if not self._left:
            return
        correct = any(gathered(bool(batch["correct"].any())))
        self._left = 0 if correct else self._left - 1
        if not (correct or self._left) and trainer.is_global_zero:
            verifiers = {prompt["verifier"] for prompt in batch["prompts"]}
            logger.warning("%s", advice(self.steps, verifiers))

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"left": self._left}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._left = state_dict["left"]


def advice(steps: int, verifiers: Collection[str]) -> str:
    """Where to look where nothing is correct."""
    return (
        f"no rollout of the first {steps} optimizer steps was correct, so nothing is learnt about answers. "
        "Compare some of them with their references (table of samples, or katlit replay). If they are right, "
        f"change data.init_args.train.init_args.verifier (of these prompts: {', '.join(sorted(verifiers))}): "
        "match takes the reference's very text only, math finds the answer in a sentence or a box. If they "
        "are cut, raise sampling.max_tokens; if they are wrong, begin with easier prompts"
    )
