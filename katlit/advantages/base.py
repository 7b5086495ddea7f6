"""The contract of an estimator of advantages, and the statistics of the groups that it compares (recipe §5).

The rollouts of one prompt are a group. Standard deviations are those of the population (our choice).
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from katlit.errors import UserError

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
    tokens: Tensor  # [N] int64, how many tokens of the response were sampled


class AdvantageEstimator(ABC):
    """Makes of rollouts how much better than their group they are; stateless.

    A class of one's own says what goes into its advantages, so that `katlit replay` can show it.

    Attributes:
        formula: How the advantages are made of the terms, in one line.
        words: Name of each term that is to be shown, in order, and what it is called.
        within_mode: The segments, `judge` or `answer`, that are compared with rollouts of their mode alone.
        learns_from_flat_groups: Whether a group whose rewards are all equal can have an advantage.
    """

    formula: str
    words: Mapping[str, str]
    within_mode: Collection[str] = ()
    learns_from_flat_groups: bool = False

    @abstractmethod
    def __call__(self, rollouts: Rollouts) -> Tensor:
        """Advantages of judge and answer, [N, 2] of the dtype of the rewards.

        A truncated rollout and a forced judge are not trained on, whatever theirs are; ours give them 0.
        """

    @abstractmethod
    def terms(self, rollouts: Rollouts) -> dict[str, Tensor]:
        """What the advantages are made of, to follow one of them by hand: [N] each, by the names of `words`.

        NaN stands for a value that there is not, such as a mean over no rollouts.
        """


class Groups:
    """Statistics of groups, in float64: `mean` has one value a group, the rest one a rollout, [N].

    Args:
        rollouts: Their rewards and which group each belongs to.
    """

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
        """How far each value is from the mean of its group."""
        return values - self.mean(values)[self.ids]

    def std(self, values: Tensor) -> Tensor:
        """Standard deviation of a rollout's group."""
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

    def terms(self) -> dict[str, Tensor]:
        """The rewards and what they are compared with, by the names of `OUTCOME`."""
        return {
            "reward": self.rewards,
            "mean": self.mean(self.rewards)[self.ids],
            "std": self.std(self.rewards),
        }


OUTCOME = {
    "reward": "reward r",
    "mean": "mean of the group",
    "std": "standard deviation of the group",
}


def assembled(
    groups: Groups, rollouts: Rollouts, judge: Tensor, answer: Tensor, solved: Tensor | None = None
) -> Tensor:
    """The segments side by side, [N, 2], with zeros where nothing is to be learnt.

    All-equal rewards give 0 to their group, a truncated rollout gets 0, and so does a forced judge.

    Args:
        groups: Those of the rollouts.
        rollouts: N of them.
        judge: Advantages of the judge segments, [N].
        answer: Advantages of the answer segments, [N].
        solved: [N] bool: judges that learn even where all rewards of their group are equal.
    """
    equal = ~groups.varies(groups.rewards)
    undecided = equal if solved is None else equal & ~solved
    judge = judge.masked_fill(rollouts.truncated | rollouts.forced | undecided, 0.0)
    answer = answer.masked_fill(rollouts.truncated | equal, 0.0)
    return torch.stack([judge, answer], dim=-1).to(rollouts.rewards.dtype)


def estimate(estimator: AdvantageEstimator, rollouts: Rollouts) -> Tensor:
    """What an estimator, which may be a user's own, makes of rollouts, [N, 2].

    Raises:
        UserError: where its answer has another shape.
    """
    advantages = estimator(rollouts)
    if advantages.shape != (len(rollouts.rewards), 2):
        raise UserError(
            f"model.estimator: {type(estimator).__name__} gives advantages of shape "
            f"{list(advantages.shape)} for {len(rollouts.rewards)} rollouts; it must give one for the judge "
            f"and one for the answer of each, [{len(rollouts.rewards)}, 2]"
        )
    return advantages
