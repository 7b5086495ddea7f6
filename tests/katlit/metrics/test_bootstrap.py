"""The percentile bootstrap against the normal approximation and exact cases."""

import torch

from katlit.metrics.bootstrap import interval, resampled_means


def test_the_interval_of_a_mean_is_the_normal_one_for_many_observations() -> None:
    values = torch.rand(1, 2000, generator=torch.Generator().manual_seed(1))
    low, high = interval(resampled_means(values, 4000)[:, 0])
    mean, error = values.mean().item(), (values.std() / 2000**0.5).item()
    assert abs(low - (mean - 1.96 * error)) < 0.2 * error
    assert abs(high - (mean + 1.96 * error)) < 0.2 * error


def test_constants_have_no_spread_and_quantities_share_the_draws() -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(1))
    means = resampled_means(torch.stack([torch.ones(50), values, values + 3]), 200)
    assert means.shape == (200, 3)
    torch.testing.assert_close(means[:, 0], torch.ones(200, dtype=torch.float64))
    torch.testing.assert_close(means[:, 2] - means[:, 1], torch.full((200,), 3.0, dtype=torch.float64))
    assert means[:, 1].std() > 0


def test_it_repeats_by_seed() -> None:
    values = torch.rand(1, 20)
    assert torch.equal(resampled_means(values, 10, seed=1), resampled_means(values, 10, seed=1))
    assert not torch.equal(resampled_means(values, 10, seed=1), resampled_means(values, 10, seed=2))


def test_two_observations_have_three_possible_means() -> None:
    means = resampled_means(torch.tensor([[0.0, 1.0]]), 4000)[:, 0]
    shares = [(means == value).double().mean().item() for value in (0, 0.5, 1)]
    for share, expected in zip(shares, (0.25, 0.5, 0.25), strict=True):
        assert abs(share - expected) < 0.03
    assert interval(means) == [0, 1]
    assert interval(torch.arange(101.0), 0.5) == [25, 75]
