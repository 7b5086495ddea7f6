"""From a value for each trained token to a loss: by tokens or rollouts, judges and answers together or apart.

Each micro-batch of each rank contributes its sum over a denominator of the whole optimizer step, so the loss
does not depend on how rollouts fall into rows, micro-batches or ranks.

Shapes: B rows, L tokens, N rollouts, T trained tokens.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from katlit.errors import UserError


class Segments(NamedTuple):
    """Which part of which rollout each token is of; of any one shape, [B, L] or [T]."""

    judge: Tensor  # bool, True in judge segments
    rollout_ids: Tensor  # int64, -1 where there is no rollout
    rollouts: int  # N

    def of(self, targets: Tensor) -> "Segments":
        """Segments of some tokens [T], given by their indices into the flattened rows."""
        return Segments(self.judge.flatten()[targets], self.rollout_ids.flatten()[targets], self.rollouts)

    def lengths(self, tokens: Tensor) -> Tensor:
        """How many of these tokens each rollout has, [N]."""
        lengths = torch.zeros(self.rollouts + 1, dtype=torch.int64, device=tokens.device)
        return lengths.index_add_(0, self.rollout_ids.flatten() + 1, tokens.flatten().long())[1:]


@dataclass(frozen=True)
class Aggregation:
    """How values are averaged; the forms are published, weighing the streams is our choice.

    A rollout counts only in the denominators of streams in which it has trained tokens (our choice): a forced
    judge is in none for judges, a truncated rollout in none at all.

    Attributes:
        unit: `token`: the mean over all tokens (DAPO, arXiv 2503.14476). `sequence`: the mean over rollouts
            of the mean over their tokens (GRPO, arXiv 2402.03300). `constant`: the sum over tokens divided by
            `length` times the number of rollouts (Dr. GRPO, arXiv 2503.20783).
        streams: `joint`: judge and answer tokens in one mean. `separate`: a mean for each of the two, added,
            so that short judges do not drown in long answers.
        judge_weight: What the values of judge tokens are multiplied by.
        length: Tokens that the sum over a rollout is divided by, however many it has; of `constant` only.
    """

    unit: Literal["token", "sequence", "constant"] = "token"
    streams: Literal["joint", "separate"] = "joint"
    judge_weight: float = 1.0
    length: int = 1024

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"aggregation.length: {self.length}; give at least 1")
        if not self.judge_weight >= 0:
            raise UserError(f"aggregation.judge_weight: {self.judge_weight}; give 0 or more")

    def numbers(self, trained: Tensor, segments: Segments) -> dict[str, Tensor]:
        """What a micro-batch adds to the denominator of each stream, [] int64 each; nothing is waited for.

        Args:
            trained: [B, L] bool, the T tokens.
            segments: Segments of the tokens [B, L].
        """
        return {
            name: self._number(trained & own, segments) for name, own in self._streams(segments.judge).items()
        }

    def mean(self, values: Tensor, segments: Segments, numbers: dict[str, Tensor]) -> Tensor:
        """This micro-batch's part of the loss, []; without tokens it is 0 and has a graph.

        Args:
            values: [T].
            segments: Segments of the tokens [T]; no rollout's tokens lie in two micro-batches.
            numbers: Denominators by the names of `numbers`, see `KatModule.step_numbers`.
        """
        weighted = torch.where(segments.judge, self.judge_weight * values, values)
        parts = [
            (weighted * self._shares(own.to(values.dtype), segments)).sum() / numbers[name]
            for name, own in self._streams(segments.judge).items()
        ]
        return torch.stack(parts).sum()

    def _streams(self, judge: Tensor) -> dict[str, Tensor]:
        """The tokens of each stream by the name of its denominator, of the shape of `judge`."""
        if self.streams == "joint":
            return {"units": torch.ones_like(judge)}
        return {"judge_units": judge, "answer_units": ~judge}

    def _number(self, tokens: Tensor, segments: Segments) -> Tensor:
        if self.unit == "token":
            return tokens.sum()
        number = (segments.lengths(tokens) > 0).sum()
        return number * self.length if self.unit == "constant" else number

    def _shares(self, own: Tensor, segments: Segments) -> Tensor:
        """What each token counts in its stream, [T], from 1 in it and 0 outside of it."""
        if self.unit != "sequence":
            return own
        return own / segments.lengths(own)[segments.rollout_ids].clamp(min=1)
