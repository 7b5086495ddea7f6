"""Plain GRPO (DeepSeekMath, arXiv 2402.03300), the baseline."""

from torch import Tensor
from typing_extensions import override

from katlit.advantages.base import OUTCOME, AdvantageEstimator, Groups, Rollouts, assembled


class GRPO(AdvantageEstimator):
    """The outcome for all tokens, whatever the mode: `(r - r̄) / std(r)`."""

    formula = "judge = answer = reward, normalised"
    words = OUTCOME | {"answer_normalized": "reward, normalised"}

    @override
    def __call__(self, rollouts: Rollouts) -> Tensor:
        groups = Groups(rollouts)
        outcome = groups.normalized(groups.rewards)
        return assembled(groups, rollouts, outcome, outcome)

    @override
    def terms(self, rollouts: Rollouts) -> dict[str, Tensor]:
        groups = Groups(rollouts)
        return groups.terms() | {"answer_normalized": groups.normalized(groups.rewards)}
