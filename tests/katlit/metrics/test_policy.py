"""Against means over plain Python lists; any split into batches, and any two halves merged, give the same."""

from statistics import mean

import pytest
import torch

from katlit.metrics.policy import PolicyMetrics


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_equals_brute_force(batch: int) -> None:
    rows = torch.randint(0, 100, (50, 5))
    flags, tokens = rows[:, :4] > 40, rows[:, 4]
    metric = PolicyMetrics()
    for part, lengths in zip(flags.split(batch), tokens.split(batch), strict=True):
        metric.update(part[:, 0], lengths, *part[:, 1:].unbind(1))
    truth = {
        "accuracy": mean(float(f[0]) for f in flags.tolist()),
        "mean_tokens": mean(tokens.tolist()),
        "think_rate": mean(float(f[1]) for f in flags.tolist()),
        "format_valid": mean(float(f[2]) for f in flags.tolist()),
        "unjudged": mean(float(f[3]) for f in flags.tolist()),
    }
    assert {name: value.item() for name, value in metric.compute().items()} == pytest.approx(truth)


def test_ranks_add_their_sums() -> None:
    first, second = PolicyMetrics(), PolicyMetrics()
    yes, no = torch.tensor([True]), torch.tensor([False])
    first.update(yes, torch.tensor([10]), no, yes, no)
    for _ in range(3):
        second.update(no, torch.tensor([30]), yes, yes, no)
    first.merge_state(second)
    result = {name: value.item() for name, value in first.compute().items()}
    means = {"accuracy": 0.25, "mean_tokens": 25.0, "think_rate": 0.75, "format_valid": 1.0, "unjudged": 0.0}
    assert result == means


def test_nothing_gives_zero() -> None:
    metric = PolicyMetrics()
    none = torch.zeros(0, dtype=torch.bool)
    metric.update(none, torch.zeros(0, dtype=torch.long), none, none, none)
    assert all(value == 0 for value in metric.compute().values())
