"""What a forward pass over chunks of targets keeps for the backward pass: a few numbers a target.

They are copied into whole tensors. Kept as they come, small ones between the large ones that go, they would
hinder the heap from using the room of those again: on a CPU memory grew by megabytes with every chunk.

Shapes: G depths, T targets, P of them with a teacher, R targets of a chunk.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from katlit.kernels.log_prob import LogProbs


class Swept(NamedTuple):
    """What sweeping a chunk finds: a few numbers a row."""

    found: LogProbs
    compared: tuple[Tensor, ...]  # by the divergence; empty where there is no teacher


class Kept:
    """The numbers of all chunks, in whole tensors.

    Args:
        depths: G.
        targets: T.
        paired: P, how many of them have a teacher; they come first.
    """

    def __init__(self, depths: int, targets: int, paired: int) -> None:
        self.depths, self.targets, self.paired = depths, targets, paired
        self.found: list[Tensor] = []  # [G, T]
        self.compared: list[Tensor] = []  # [G, P] or [P]

    def put(self, where: slice, swept: Swept) -> None:
        """Copy what sweeping a chunk found."""
        found = [numbers.view(self.depths, -1) for numbers in swept.found]
        self._copy(where, found, self.found, self.targets)
        if swept.compared:
            self._copy(where, swept.compared, self.compared, self.paired)

    def get(self, where: slice) -> Swept:
        """What was found of a chunk."""
        found = LogProbs(*(numbers[:, where].flatten() for numbers in self.found))
        compared = self.compared if where.start < self.paired else []
        return Swept(found, tuple(numbers[..., where].contiguous() for numbers in compared))

    @staticmethod
    def _copy(where: slice, parts: Sequence[Tensor], wholes: list[Tensor], length: int) -> None:
        if not wholes:
            wholes.extend(part.new_empty(*part.shape[:-1], length) for part in parts)
        for whole, part in zip(wholes, parts, strict=True):
            whole[..., where] = part
