"""Accuracy by the prompt's own verifier, and the weighted sum that the policy is trained on."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample, Verdict, verdicts_of
from katlit.rewards.code.reward import CodeReward
from katlit.rewards.format import FormatReward
from katlit.rewards.match import MatchReward
from katlit.rewards.math.reward import MathReward
from katlit.rewards.task import TaskReward
from katlit.rewards.tool_calls import ToolCallReward

ACCURACY = "accuracy"
_LOGGED = re.compile(r"[\w\-. ]+", re.ASCII)  # names that MLflow takes as a part of a metric's


class AccuracyReward(Reward):
    """1 for a correct answer, else 0, by the prompt's `verifier`: one of these names, or a data set's.

    - `match`: `MatchReward`;
    - `math`: `MathReward`;
    - `code`: `CodeReward`;
    - `tool_calls`: `ToolCallReward`;
    - any other: `TaskReward`, by reasoning-gym's data set of that name.

    Args:
        threshold: Least score of reasoning-gym's scorer that counts as correct.
        verifiers: Rewards by the name of a verifier, beside the above or in their place.
    """

    def __init__(self, threshold: float = 1.0, verifiers: Mapping[str, Reward] | None = None) -> None:
        self._task = TaskReward(threshold)
        self._verifiers: dict[str, Reward] = {
            "match": MatchReward(),
            "math": MathReward(),
            "code": CodeReward(),
            "tool_calls": ToolCallReward(),
        } | dict(verifiers or {})

    def reference_problem(self, prompt: Prompt) -> str | None:
        """See `Reward`."""
        return self._verifiers.get(prompt["verifier"], self._task).reference_problem(prompt)

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        groups: dict[str, list[int]] = {}
        for index, sample in enumerate(samples):
            groups.setdefault(sample.prompt["verifier"], []).append(index)
        found: dict[int, Verdict] = {}
        for verifier, indices in groups.items():
            reward = self._verifiers.get(verifier, self._task)
            found |= zip(indices, verdicts_of(reward, [samples[index] for index in indices]), strict=True)
        return [found[index] for index in range(len(samples))]

    def close(self) -> None:
        """See `Reward`."""
        for reward in self._verifiers.values():
            reward.close()


@dataclass(frozen=True, slots=True)
class RewardBatch:
    """What a batch of samples earned; all lists in the order of the samples."""

    total: list[float]  # weighted sum of the components: the outcome reward; NaN where one is unjudged
    components: dict[str, list[Verdict]]  # unweighted
    correct: list[bool]  # whether the accuracy is 1


class CompositeReward:
    """The outcome reward r = accuracy + 0.2 · format (recipe §5, after HiPO), or any other weighted sum.

    A sample that one of the components could not judge has no outcome, whatever the others say.

    Args:
        rewards: Components by name, one of them "accuracy"; default: `AccuracyReward` and `FormatReward`.
        weights: A weight for each component; default: accuracy 1.0, format 0.2.

    Raises:
        UserError: where the names of rewards and weights differ, "accuracy" is missing, a name cannot be
            logged, or a weight is no finite number.
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
        if wrong := [name for name in self.rewards if not _LOGGED.fullmatch(name)]:
            raise UserError(
                f"reward: a component is called {wrong[0]!r}, which MLflow cannot log; use letters, digits, "
                "_, -, . and spaces"
            )
        if not all(map(math.isfinite, self.weights.values())):
            raise UserError(f"reward: weights {self.weights}; give finite numbers")

    def reference_problem(self, prompt: Prompt) -> str | None:
        """Why one of the components can judge no answer to a prompt; None where all can."""
        problems = (reward.reference_problem(prompt) for reward in self.rewards.values())
        return next(filter(None, problems), None)

    def __call__(self, samples: Sequence[Sample]) -> RewardBatch:
        """Score the samples.

        Raises:
            UserError: where a prompt cannot be scored, whatever the response.
        """
        components = {name: verdicts_of(reward, samples) for name, reward in self.rewards.items()}
        total = [
            sum(weight * _number(components[name][index]) for name, weight in self.weights.items())
            for index in range(len(samples))
        ]
        return RewardBatch(total, components, [_number(verdict) >= 1 for verdict in components[ACCURACY]])

    def close(self) -> None:
        """Free the components' processes."""
        for reward in self.rewards.values():
            reward.close()


def _number(verdict: Verdict) -> float:
    return math.nan if verdict.value is None else verdict.value
