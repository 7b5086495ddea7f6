"""Whether the first steps have anything to learn from; a warning where they have not."""

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

_CUT_SHARE = 0.5  # from which on the length limit is what to change first (our choice)
_CUT = (
    "{:.0%} of the rollouts of the first {} optimizer steps were cut by the length limit, {}; what is cut is "
    "not learnt from: raise sampling.max_tokens, or the engine's max_context where that is what ends them"
)
_NO_GRADIENT = (
    "no optimizer step of the first {} had a gradient, so nothing is learnt: all rollouts of each prompt "
    "earned the same. Take harder prompts where all are correct, or raise samples or sampling.temperature"
)


class CorrectWatch(StepCallback):
    """Warns once where no rollout of the first optimizer steps was correct, on any rank (our choice).

    Then the rollouts of a prompt differ in format at most. A verifier that does not read the answers looks
    like that, and so does a policy that knows none. Warns too where some were correct but no step had a
    gradient, and says in both cases if most rollouts were cut by the length limit.

    Args:
        steps: Optimizer steps that are watched.
    """

    def __init__(self, steps: int = 5) -> None:
        if steps < 1:
            raise UserError(f"CorrectWatch: steps {steps}; give at least 1")
        self.steps = steps
        self._left = steps  # to be watched; 0 as soon as there is something to learn
        self._seen = dict.fromkeys(("rollouts", "cut", "correct", "gradients"), 0)  # so far

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch) -> None:
        if not self._left:
            return
        norm = trainer.callback_metrics.get("train/gradient_norm")
        here = {
            "rollouts": len(batch["truncated"]),
            "cut": int(batch["truncated"].sum()),
            "correct": int(batch["correct"].sum()),
            "gradients": int(norm is None or float(norm) > 0),
        }
        for seen in gathered(here):
            self._seen = {name: number + seen[name] for name, number in self._seen.items()}
        learns = bool(self._seen["correct"] and self._seen["gradients"])
        self._left = 0 if learns else self._left - 1
        if not (learns or self._left) and trainer.is_global_zero:
            logger.warning("%s", self._advice({prompt["verifier"] for prompt in batch["prompts"]}))

    def _advice(self, verifiers: Collection[str]) -> str:
        share, correct = self._seen["cut"] / max(self._seen["rollouts"], 1), self._seen["correct"]
        if share >= _CUT_SHARE:
            lack = "and no step had a gradient" if correct else "and none was correct"
            return _CUT.format(share, self.steps, lack)
        return _NO_GRADIENT.format(self.steps) if correct else advice(self.steps, verifiers)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"left": self._left, "seen": self._seen}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._left = state_dict["left"]
        self._seen = state_dict.get("seen", self._seen)  # older checkpoints lack it


def advice(steps: int, verifiers: Collection[str]) -> str:
    """Where to look where nothing is correct."""
    return (
        f"no rollout of the first {steps} optimizer steps was correct, so nothing is learnt about answers. "
        "Compare some of them with their references (table of samples, or katlit replay). If they are right, "
        f"change data.init_args.train.init_args.verifier (of these prompts: {', '.join(sorted(verifiers))}): "
        "match takes the reference's very text only, math finds the answer in a sentence or a box. If they "
        "are cut, raise sampling.max_tokens; if they are wrong, begin with easier prompts"
    )
