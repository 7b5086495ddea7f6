"""Accuracy by the prompt's own verifier, and the weighted sum that the policy is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample
from katlit.rewards.format import FormatReward
from katlit.rewards.match import MatchReward
from katlit.rewards.task import TaskReward

ACCURACY = "accuracy"


class AccuracyReward(Reward):
    """1 for a correct answer, else 0, by the prompt's `verifier`: "match", or a reasoning-gym data set.

    Args:
        threshold: Least score of reasoning-gym's scorer that counts as correct.
    """

    def __init__(self, threshold: float = 1.0) -> None:
        self._match = MatchReward()
        self._task = TaskReward(threshold)

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """See `Reward`."""
        return [self._by_verifier(sample.prompt["verifier"])([sample])[0] for sample in samples]

    def _by_verifier(self, verifier: str) -> Reward:
        return self._match if verifier == "match" else self._task


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """What a batch of samples earned; all lists in the order of the samples."""

    total: list[float]  # weighted sum of the components: the outcome reward
    components: dict[str, list[float]]  # unweighted
    correct: list[bool]  # whether the accuracy is 1


class CompositeReward:
    """The outcome reward r = accuracy + 0.2 · format (recipe §5, after HiPO), or any other weighted sum.

    Args:
        rewards: Components by name, one of them "accuracy"; default: `AccuracyReward` and `FormatReward`.
        weights: A weight for each component; default: accuracy 1.0, format 0.2.

    Raises:
        UserError: where the names of rewards and weights differ, or "accuracy" is missing.
    """

    def __init__(
        self, rewards: Mapping[str, Reward] | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        self.rewards = (
            {ACCURACY: AccuracyReward(), "format": FormatReward()} if rewards is None else dict(rewards)
        )
        self.weights = {ACCURACY: 1.0, "format": 0.2} if weights is None else dict(weights)
        if ACCURACY not in self.rewards or self.rewards.keys() != self.weights.keys():
            raise UserError(
                f"reward: components {sorted(self.rewards)} and weights {sorted(self.weights)}; both need "
                f"the same names, {ACCURACY!r} among them"
            )

    def __call__(self, samples: Sequence[Sample]) -> RewardBatch:
        """Score the samples.

        Raises:
            UserError: where a prompt cannot be scored, whatever the response.
        """
        components = {name: reward(samples) for name, reward in self.rewards.items()}
        total = [
            sum(weight * components[name][i] for name, weight in self.weights.items())
            for i in range(len(samples))
        ]
        return RewardBatch(total, components, [accuracy >= 1 for accuracy in components[ACCURACY]])
