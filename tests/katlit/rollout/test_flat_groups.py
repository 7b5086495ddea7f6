"""Which groups are flat, and how often they are sampled anew, on several processes too."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from katlit.rollout.flat_groups import flat_groups, resampled
from katlit.rollout.statistics import shares


def rollouts(*groups: list[float], first: int = 0) -> list[Any]:
    return [
        SimpleNamespace(group=group, reward=reward, unjudged=[])
        for group, rewards in enumerate(groups, first)
        for reward in rewards
    ]


def test_a_group_is_flat_where_its_rewards_differ_by_rounding_at_most() -> None:
    rounded = [0.1 + 0.2, 0.3]  # differ by 6e-17
    groups = rollouts([1.2, 1.2], [0.0, 0.2], rounded, [0.7], [1.0, 1.0, 1.0 + 1e-6])
    assert rounded[0] != rounded[1]
    assert flat_groups(groups) == {0, 2, 3}
    assert shares(groups, {0}) == {"flat_groups": (3, 5), "left_out_groups": (1, 5)}
    lost = SimpleNamespace(group=0, reward=math.nan, unjudged=["an error"])
    assert flat_groups([*groups, lost]) == {0, 2, 3}
    assert shares([], ()) == {"flat_groups": (0, 0), "left_out_groups": (0, 0)}


@pytest.mark.parametrize(
    ("rounds", "asked", "left"),
    [
        (0, [], {0, 2}),
        (1, [([0, 2], 1)], {2}),
        (2, [([0, 2], 1), ([2], 2)], {2}),
        (9, [([0, 2], 1), ([2], 2), ([2], 3)], set()),
    ],
)
def test_flat_groups_are_sampled_until_none_is_left_or_the_rounds_are_over(
    rounds: int, asked: list[Any], left: set[int]
) -> None:
    calls: list[Any] = []

    def sample(groups: Any, number: int) -> list[Any]:
        """Group 0 is mixed in the first round, group 2 in the third."""
        calls.append((sorted(groups), number))
        return [r for group in groups for r in rollouts([1.0, float(group >= number)], first=group)]

    before = rollouts([0.0, 0.0], [0.0, 1.0], [1.0, 1.0])
    after = resampled(before, rounds, sample, bool)
    assert calls == asked
    assert [rollout.group for rollout in after] == [0, 0, 1, 1, 2, 2]
    assert after[2:4] == before[2:4]
    assert flat_groups(after) == left


def test_a_process_without_flat_groups_goes_through_the_rounds_of_the_others() -> None:
    decisions: list[bool] = []

    def anywhere(here: bool) -> bool:
        decisions.append(here)
        return len(decisions) <= 2  # of three possible rounds the others need two

    def never(*_: Any) -> list[Any]:
        raise AssertionError("nothing is flat here")

    before = rollouts([0.0, 1.0])
    assert resampled(before, 3, never, anywhere) == before
    assert decisions == [False, False, False]
