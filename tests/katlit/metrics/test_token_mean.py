"""A mean of tokens, not of batches."""

import torch

from katlit.metrics.token_mean import TokenMean


def test_batches_weigh_by_their_tokens() -> None:
    metric, values = TokenMean(), torch.rand(10)
    for part in (values[:1], values[1:1], values[1:7], values[7:]):
        metric.update(part)
    torch.testing.assert_close(metric.compute(), values.mean())


def test_nothing_gives_zero() -> None:
    metric = TokenMean()
    metric.update(torch.zeros(0))
    assert metric.compute() == 0
