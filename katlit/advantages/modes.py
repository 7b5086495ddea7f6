"""What each mode of a group is worth, with the bias against overthinking, and what judges earn by it."""

import torch
from torch import Tensor

from katlit.advantages.base import EQUAL, OUTCOME, Groups, Rollouts

JUDGE = OUTCOME | {
    "mean_on": "mean of think-on",
    "mean_off": "mean of think-off, with the bias",
    "mean_none": "mean without a mode",
    "bias": "bias added to think-off",
    "judge_reward": "judge reward: mean of its mode - mean",
}


def by_mode(rollouts: Rollouts) -> Groups:
    """Each mode of a group as a group of its own."""
    return Groups(rollouts._replace(group_ids=3 * rollouts.group_ids + rollouts.modes + 1))


def judge_rewards(groups: Groups, modes: Tensor, bias: float) -> Tensor:
    """`j = r̄_mode - r̄`, think-off favoured by the bias; 0 where a group has one mode only.

    Args:
        groups: Those of the N rollouts.
        modes: [N].
        bias: ω. Where `0 ≤ r̄_on - r̄_off ≤ ω·|r̄_on|`, ω·|r̄_on| is added to r̄_off.
    """
    means, _ = _mode_means(groups, modes, bias)
    judge = means[modes + 1, groups.ids] - groups.mean(groups.rewards)[groups.ids]
    return torch.where(groups.varies(modes.double()), judge, 0.0)


def judge_terms(groups: Groups, modes: Tensor, bias: float) -> dict[str, Tensor]:
    """What the reward of a judge is made of, [N] each, by the names of `JUDGE`.

    Means are NaN where no rollout of the group has the mode. `bias` is what was added to `mean_off` already.
    """
    means, added = _mode_means(groups, modes, bias)
    none, off, on = means[:, groups.ids]
    return groups.terms() | {
        "mean_on": on,
        "mean_off": off,
        "mean_none": none,
        "bias": added[groups.ids],
        "judge_reward": judge_rewards(groups, modes, bias),
    }


def _mode_means(groups: Groups, modes: Tensor, bias: float) -> tuple[Tensor, Tensor]:
    """Mean reward of each mode and group, [3, groups]: none, think-off with its bias, think-on; the bias."""
    none, off, on = (groups.mean(groups.rewards, modes == mode) for mode in (-1, 0, 1))
    gain, margin = on - off, bias * on.abs()
    added = torch.where((gain >= -EQUAL) & (gain <= margin + EQUAL), margin, 0.0)
    return torch.stack([none, off + added, on]), added
