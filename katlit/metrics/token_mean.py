"""A mean whose sum and count stay apart until the end, so that batches and ranks weigh by their tokens."""

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenMean(Metric):
    """Sum of all values over their number; 0 where nothing was counted."""

    full_state_update = False
    total: Tensor
    number: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("number", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add one value a token, of any shape."""
        self.total += values.detach().sum()
        self.number += values.numel()

    def compute(self) -> Tensor:
        """The mean so far."""
        return self.total / self.number.clamp(min=1)
