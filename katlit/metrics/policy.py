"""How a policy (auto, forced on, forced off) does: recipe §6, without the confidence intervals."""

import torch
from torch import Tensor
from torchmetrics import Metric


class PolicyMetrics(Metric):
    """Means over responses: accuracy, tokens, think rate, format validity, unjudged; 0 where there was none.

    Only sums and the number of responses are kept, so any split into batches and ranks gives the same result.
    """

    full_state_update = False
    correct: Tensor
    tokens: Tensor
    thinking: Tensor
    valid: Tensor
    unjudged: Tensor
    number: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("correct", "tokens", "thinking", "valid", "unjudged", "number"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, correct: Tensor, tokens: Tensor, thinking: Tensor, valid: Tensor, unjudged: Tensor
    ) -> None:
        """Add N responses.

        Args:
            correct: [N] bool (or 0 and 1), whether the answer was verified.
            tokens: [N] int, length of the response, judge tokens counted.
            thinking: [N] bool, whether the mode was think-on; False where no mode was found.
            valid: [N] bool, whether the response keeps to the protocol.
            unjudged: [N] bool, whether no reward could be told; such a one is not correct here (our choice).
        """
        self.correct += correct.sum()
        self.tokens += tokens.sum()
        self.thinking += thinking.sum()
        self.valid += valid.sum()
        self.unjudged += unjudged.sum()
        self.number += correct.numel()

    def compute(self) -> dict[str, Tensor]:
        """`accuracy`, `mean_tokens`, `think_rate`, `format_valid`, `unjudged`."""
        sums = {
            "accuracy": self.correct,
            "mean_tokens": self.tokens,
            "think_rate": self.thinking,
            "format_valid": self.valid,
            "unjudged": self.unjudged,
        }
        return {name: total / self.number.clamp(min=1) for name, total in sums.items()}
