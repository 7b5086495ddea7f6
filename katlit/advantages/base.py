"""Advantages of a judge segment and of an answer segment, relative to the group of one prompt (recipe §5).

Every estimator returns [N, 2], judge and answer, for N rollouts. All-equal rewards give 0 to their group
(`process` can make an exception), a truncated rollout gets 0, and so does a forced judge. Standard deviations
are those of the population (our choice).
"""

from typing import NamedTuple

import torch
from torch import Tensor

EQUAL = 1e-9  # values this close are equal: means of the same numbers differ by rounding, in float64


class Rollouts(NamedTuple):
    """What an estimator knows of N rollouts of any number of prompts.

    Truncated rollouts count in the statistics of their group.
    """

    rewards: Tensor  # [N] float, the outcome reward r
    correct: Tensor  # [N] bool, the part of it that is accuracy
    group_ids: Tensor  # [N] int64, which prompt, from 0
    modes: Tensor  # [N] int64: 1 think-on, 0 think-off, -1 where none was found, a mode of its own
    truncated: Tensor  # [N] bool, stopped by the length limit
    forced: Tensor  # [N] bool, the mode came by prefill


def process(rollouts: Rollouts, bias: float = 0.1, bias_when_solved: bool = False) -> Tensor:  # [N, 2]
    """Process supervision with two steps (DeepSeekMath, arXiv 2402.03300, §4.1.3; the rewards are ours).

    Judge rewards `j = r̄_mode - r̄` and answer rewards r are each normalised over the group. A judge token's
    advantage is the sum of both, an answer token's is the answer's alone.

    Args:
        rollouts: Their rewards and modes.
        bias: ω. Where `0 ≤ r̄_on - r̄_off ≤ ω·|r̄_on|`, ω·|r̄_on| is added to r̄_off.
        bias_when_solved: Whether judges still get their advantage where all rollouts of a prompt are correct
            and equally rewarded: only the bias then tells the modes apart (our choice; the recipe's rule
            is 0).
    """
    groups = _Groups(rollouts)
    judge = groups.normalized(_judge_rewards(groups, rollouts.modes, bias))
    answer = groups.normalized(groups.rewards)
    solved = ~groups.varies(rollouts.correct.double()) & rollouts.correct
    return _finish(groups, rollouts, judge + answer, answer, solved if bias_when_solved else None)


def hipo(rollouts: Rollouts, bias: float = 0.1, judge_gamma: float = 0.5) -> Tensor:  # [N, 2]
    """HiPO's estimator as we understand it (arXiv 2509.23967).

    Judge `(j + γ·(r - r̄)) / std(r)`, answer `(r - r̄_mode) / std_mode(r)`, which is 0 for a mode's only
    rollout.

    Args:
        rollouts: Their rewards and modes.
        bias: ω, as in `process`.
        judge_gamma: γ, weight of the rollout's own reward.
    """
    groups = _Groups(rollouts)
    deviation = groups.centred(groups.rewards)
    judge = (_judge_rewards(groups, rollouts.modes, bias) + judge_gamma * deviation) / groups.std(
        groups.rewards
    )
    by_mode = _Groups(_split_by_mode(rollouts))
    return _finish(groups, rollouts, judge, by_mode.normalized(groups.rewards))


def terms(rollouts: Rollouts, bias: float = 0.1) -> dict[str, Tensor]:
    """What the advantages are made of, to follow one of them by hand: [N] float64 each, by name.

    Means are NaN where no rollout of the group has the mode. `bias` is what was added to `mean_off` already.

    Args:
        rollouts: Their rewards and modes.
        bias: ω, as in `process`.
    """
    groups = _Groups(rollouts)
    by_mode = _Groups(_split_by_mode(rollouts))
    means, added = _mode_means(groups, rollouts.modes, bias)
    judge = _judge_rewards(groups, rollouts.modes, bias)
    none, off, on = means[:, groups.ids]
    return {
        "reward": groups.rewards,
        "mean": groups.mean(groups.rewards)[groups.ids],
        "std": groups.std(groups.rewards),
        "mean_on": on,
        "mean_off": off,
        "mean_none": none,
        "bias": added[groups.ids],
        "judge_reward": judge,
        "judge_normalized": groups.normalized(judge),
        "answer_normalized": groups.normalized(groups.rewards),
        "mode_mean": by_mode.mean(groups.rewards)[by_mode.ids],
        "mode_std": by_mode.std(groups.rewards),
    }


def grpo(rollouts: Rollouts) -> Tensor:  # [N, 2]
    """Plain GRPO, the baseline: `(r - r̄) / std(r)` for all tokens, whatever the mode."""
    groups = _Groups(rollouts)
    outcome = groups.normalized(groups.rewards)
    return _finish(groups, rollouts, outcome, outcome)


class _Groups:
    """Statistics of groups, in float64: `mean` has one value a group, the rest one a rollout, [N]."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rewards = rollouts.rewards.double()
        self.ids = rollouts.group_ids
        self.number = int(self.ids.max()) + 1 if len(self.ids) else 0

    def mean(self, values: Tensor, where: Tensor | None = None) -> Tensor:
        """Mean of each group over the rollouts in `where`; NaN where there is none."""
        weights = torch.ones_like(values) if where is None else where.to(values.dtype)
        sums = values.new_zeros(2, self.number)
        sums.index_add_(1, self.ids, torch.stack([values * weights, weights]))
        return sums[0] / sums[1]

    def centred(self, values: Tensor) -> Tensor:
        return values - self.mean(values)[self.ids]

    def std(self, values: Tensor) -> Tensor:
        return self.mean(self.centred(values).square()).sqrt()[self.ids]

    def varies(self, values: Tensor) -> Tensor:
        """Whether the values of a rollout's group differ."""
        ends = values.new_zeros(2, self.number)
        ends[0].scatter_reduce_(0, self.ids, values, "amax", include_self=False)
        ends[1].scatter_reduce_(0, self.ids, values, "amin", include_self=False)
        return (ends[0] - ends[1] > EQUAL)[self.ids]

    def normalized(self, values: Tensor) -> Tensor:
        """Mean 0 and standard deviation 1 in each group; 0 where all are equal."""
        return torch.where(self.varies(values), self.centred(values) / self.std(values), 0.0)


def _split_by_mode(rollouts: Rollouts) -> Rollouts:
    """Each mode of a group as a group of its own."""
    return rollouts._replace(group_ids=3 * rollouts.group_ids + rollouts.modes + 1)


def _mode_means(groups: _Groups, modes: Tensor, bias: float) -> tuple[Tensor, Tensor]:
    """Mean reward of each mode and group, [3, groups]: none, think-off with its bias, think-on; the bias."""
    none, off, on = (groups.mean(groups.rewards, modes == mode) for mode in (-1, 0, 1))
    gain, margin = on - off, bias * on.abs()
    added = torch.where((gain >= -EQUAL) & (gain <= margin + EQUAL), margin, 0.0)
    return torch.stack([none, off + added, on]), added


def _judge_rewards(groups: _Groups, modes: Tensor, bias: float) -> Tensor:
    """`j = r̄_mode - r̄`, think-off favoured by the bias; 0 where a group has one mode only."""
    means, _ = _mode_means(groups, modes, bias)
    judge = means[modes + 1, groups.ids] - groups.mean(groups.rewards)[groups.ids]
    return torch.where(groups.varies(modes.double()), judge, 0.0)


def _finish(
    groups: _Groups, rollouts: Rollouts, judge: Tensor, answer: Tensor, solved: Tensor | None = None
) -> Tensor:
    """The segments side by side, with zeros where nothing is to be learnt.

    Judges of the rollouts in `solved` [N] learn even where all rewards of their group are equal.
    """
    equal = ~groups.varies(groups.rewards)
    undecided = equal if solved is None else equal & ~solved
    judge = judge.masked_fill(rollouts.truncated | rollouts.forced | undecided, 0.0)
    answer = answer.masked_fill(rollouts.truncated | equal, 0.0)
    return torch.stack([judge, answer], dim=-1).to(rollouts.rewards.dtype)
