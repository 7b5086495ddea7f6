"""Means over ranks with uneven numbers."""

from katlit.metrics.tally import Tally, known_means, means, tally


def test_a_mean_is_over_all_values_whoever_has_them() -> None:
    uneven = [
        {"reward": tally([1.0, 0.0, 0.5]), "none": tally([])},
        {"reward": tally([0.0]), "none": tally([])},
    ]
    assert means(uneven) == {"reward": 1.5 / 4, "none": 0.0}
    assert known_means(uneven) == {"reward": 1.5 / 4}
    assert tally(x > 1 for x in (1, 2, 3)) == Tally(2.0, 3)
