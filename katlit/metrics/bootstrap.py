"""Confidence intervals by the percentile bootstrap (Efron, 1979).

Shapes: K quantities, N observations, R resamples.
"""

import torch
from torch import Tensor


def resampled_means(values: Tensor, resamples: int = 2000, seed: int = 0) -> Tensor:  # [K, N] -> [R, K]
    """Means of N observations drawn with replacement, R times; all quantities share the draws, so they pair.

    Args:
        values: One row a quantity, one column an observation (a prompt).
        resamples: R.
        seed: Seed of the draws.
    """
    number = values.shape[1]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(number, (resamples, number), generator=generator)
    counts = torch.zeros(resamples, number, dtype=torch.float64)
    counts.scatter_add_(1, draws, torch.ones_like(draws, dtype=torch.float64))
    return counts @ values.double().T / number


def interval(statistics: Tensor, level: float = 0.95) -> list[float]:
    """Lower and upper end of the central share `level` of a statistic's resamples [R]."""
    tail = (1 - level) / 2
    ends = torch.quantile(statistics, torch.tensor([tail, 1 - tail], dtype=statistics.dtype))
    return [float(end) for end in ends]
