"""The micro-batches that are left of a batch of rollouts, of one optimizer step or several."""

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
import torch.distributed as dist
from torch import Tensor

from katlit.errors import UserError

MicroBatch = dict[str, Any]  # a `RolloutBatch` without prompts


class WindowState(TypedDict):
    """What is left between two updates, in types that a weights-only load accepts."""

    parts: list[MicroBatch]
    each: int  # micro-batches of an optimizer step
    statistics: dict[str, float]


class RolloutWindow:
    """Hands out micro-batches, and says which of them make an optimizer step.

    Attributes:
        each: Micro-batches of an optimizer step.
        statistics: Statistics of the rollouts, to be logged with each of their updates.
    """

    def __init__(self) -> None:
        self.each = 1
        self.statistics: dict[str, float] = {}
        self._parts: list[MicroBatch] = []
        self._left: list[MicroBatch] = []  # when the last optimizer step was complete

    def open(self, parts: list[MicroBatch], each: int, statistics: dict[str, float]) -> None:
        """Begin with new rollouts.

        Args:
            parts: Micro-batches of one update or several.
            each: Micro-batches of an update.
            statistics: Statistics of the rollouts.
        """
        # The first micro-batch has the module record what later updates start from: then is the last time
        # that it has the weights which sampled.
        self._parts, self.each, self.statistics = (
            [parts[0] | {"later": parts[each:]}, *parts[1:]],
            each,
            statistics,
        )

    @property
    def in_step(self) -> bool:
        """Whether an optimizer step still misses micro-batches."""
        return len(self._parts) % self.each > 0

    def __len__(self) -> int:
        return len(self._parts)

    def take(self, device: torch.device) -> MicroBatch:
        """The next micro-batch, as part of its optimizer step (`katlit.batch.StepBatch`)."""
        step = [] if self.in_step else self._parts[: self.each]
        return _on(device, self._parts.pop(0)) | {"window": [_on(device, part) for part in step]}

    def complete_step(self) -> None:
        """Note what the updates to come will need: a checkpoint goes on after the last complete step."""
        if not self.in_step:
            self._left = [*self._parts]

    def state(self) -> WindowState | None:
        """What a checkpoint keeps; None where no update on these rollouts is left."""
        if not self._left:
            return None
        parts = [_on(torch.device("cpu"), part) for part in self._left]
        return {"parts": parts, "each": self.each, "statistics": self.statistics}

    def restore(self, states: Sequence[WindowState | None], rank: int) -> None:
        """Go on between two updates.

        Args:
            states: States of all processes that wrote the checkpoint.
            rank: Rank of this process.

        Raises:
            UserError: where updates are left, and this run has other processes.
        """
        if all(state is None for state in states):
            return
        world = dist.get_world_size() if dist.is_initialized() else 1
        if len(states) != world:
            raise UserError(
                f"ckpt_path: the checkpoint lies between two updates on the same rollouts, of {len(states)} "
                f"processes; go on with as many, not {world}, or from another checkpoint"
            )
        if (state := states[rank]) is not None:
            self._parts, self.each, self.statistics = state["parts"], state["each"], state["statistics"]
            self._left = [*self._parts]

    def expect(self, *, new: bool) -> None:
        """Check that the data begin a new window where this one is used up, and only there.

        Raises:
            UserError: where a run went on from a checkpoint with other settings.
        """
        if new == bool(self._parts):
            raise UserError(
                "ckpt_path: the checkpoint lies between two updates on the same rollouts; go on with the "
                "data.updates and the trainer.accumulate_grad_batches that it was written with"
            )


def _on(device: torch.device, part: MicroBatch) -> MicroBatch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in part.items()}
