"""Groups whose rollouts all earned the same: nothing tells them apart (DAPO, arXiv 2503.14476)."""

from collections.abc import Callable, Collection, Sequence
from typing import Literal

from katlit.advantages.base import EQUAL
from katlit.rollout.types import Rollout

OnFlatGroups = Literal["keep", "skip", "resample"]


def flat_groups(rollouts: Sequence[Rollout]) -> set[int]:
    """The groups whose largest and least reward are equal; a standard deviation would see rounding.

    Unjudged rollouts do not count; nor does a group of which none is judged.
    """
    rewards: dict[int, list[float]] = {}
    for rollout in rollouts:
        if not rollout.unjudged:
            rewards.setdefault(rollout.group, []).append(rollout.reward)
    return {group for group, own in rewards.items() if max(own) - min(own) <= EQUAL}


def resampled(
    rollouts: Sequence[Rollout],
    rounds: int,
    sample: Callable[[Collection[int], int], Sequence[Rollout]],
    anywhere: Callable[[bool], bool],
) -> list[Rollout]:
    """Sample flat groups anew, until none is left or the rounds are over.

    A prompt keeps its place, and gets a whole new group (our choice; DAPO draws other prompts). Processes may
    have flat groups in different rounds, so they agree on each round.

    Args:
        rollouts: In order of their groups.
        rounds: At most.
        sample: New rollouts of some groups; also gets the number of the round, from 1.
        anywhere: Whether this is so in any process; a collective.

    Returns:
        In order of their groups, those that are still flat included.
    """
    groups: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.group, []).append(rollout)
    flat = flat_groups(rollouts)
    for number in range(1, rounds + 1):
        if not anywhere(bool(flat)):
            break
        new = sample(flat, number) if flat else []
        for group in flat:
            groups[group] = [rollout for rollout in new if rollout.group == group]
        flat = flat_groups(new)
    return [rollout for group in sorted(groups) for rollout in groups[group]]
