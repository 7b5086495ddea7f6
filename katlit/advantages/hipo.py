"""HiPO's estimator as we understand it (arXiv 2509.23967)."""

from torch import Tensor
from typing_extensions import override

from katlit.advantages.base import AdvantageEstimator, Groups, Rollouts, assembled
from katlit.advantages.modes import JUDGE, by_mode, judge_rewards, judge_terms


class HiPO(AdvantageEstimator):
    """Value of the mode for the judge, reward within the mode for the answer.

    Judge `(j + γ·(r - r̄)) / std(r)`, answer `(r - r̄_mode) / std_mode(r)`, which is 0 for a mode's only
    rollout.

    Args:
        bias: ω, against overthinking, as `katlit.advantages.Process` has it.
        judge_gamma: γ, weight of a rollout's own reward in the advantage of its judge.
    """

    formula = (
        "judge = (judge reward + judge_gamma * (r - mean)) / std; answer = (r - mean of its mode) / its std"
    )
    words = JUDGE | {"mode_mean": "mean of its mode", "mode_std": "standard deviation of its mode"}
    within_mode = ("answer",)

    def __init__(self, bias: float = 0.1, judge_gamma: float = 0.5) -> None:
        self.bias = bias
        self.judge_gamma = judge_gamma

    @override
    def __call__(self, rollouts: Rollouts) -> Tensor:
        groups = Groups(rollouts)
        deviation = groups.centred(groups.rewards)
        judge = judge_rewards(groups, rollouts.modes, self.bias) + self.judge_gamma * deviation
        answer = by_mode(rollouts).normalized(groups.rewards)
        return assembled(groups, rollouts, judge / groups.std(groups.rewards), answer)

    @override
    def terms(self, rollouts: Rollouts) -> dict[str, Tensor]:
        groups, of_mode = Groups(rollouts), by_mode(rollouts)
        return judge_terms(groups, rollouts.modes, self.bias) | {
            "mode_mean": of_mode.mean(of_mode.rewards)[of_mode.ids],
            "mode_std": of_mode.std(of_mode.rewards),
        }
