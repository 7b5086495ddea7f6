"""Process supervision with two steps, mode and answer (DeepSeekMath, arXiv 2402.03300, §4.1.3)."""

from torch import Tensor
from typing_extensions import override

from katlit.advantages.base import AdvantageEstimator, Groups, Rollouts, assembled
from katlit.advantages.modes import JUDGE, judge_rewards, judge_terms


class Process(AdvantageEstimator):
    """Both steps normalised over the group; the rewards of the steps are ours.

    Judge rewards `j = r̄_mode - r̄` and answer rewards r are each normalised over the group. A judge token's
    advantage is the sum of both, an answer token's is the answer's alone.

    Args:
        bias: ω, against overthinking: thinking must be better by more than this share to count as better.
            Where `0 ≤ r̄_on - r̄_off ≤ ω·|r̄_on|`, ω·|r̄_on| is added to r̄_off.
        bias_when_solved: Whether judges still get their advantage where all rollouts of a prompt are correct
            and equally rewarded: only the bias then tells the modes apart, so that what both modes solve is
            learnt to need no thinking (our choice; the recipe's rule is 0).
    """

    formula = "judge = judge reward, normalised + reward, normalised; answer = reward, normalised"
    words = JUDGE | {
        "judge_normalized": "judge reward, normalised",
        "answer_normalized": "reward, normalised",
    }

    def __init__(self, bias: float = 0.1, bias_when_solved: bool = False) -> None:
        self.bias = bias
        self.bias_when_solved = self.learns_from_flat_groups = bias_when_solved

    @override
    def __call__(self, rollouts: Rollouts) -> Tensor:
        groups = Groups(rollouts)
        judge = groups.normalized(judge_rewards(groups, rollouts.modes, self.bias))
        answer = groups.normalized(groups.rewards)
        solved = ~groups.varies(rollouts.correct.double()) & rollouts.correct
        return assembled(
            groups, rollouts, judge + answer, answer, solved if self.learns_from_flat_groups else None
        )

    @override
    def terms(self, rollouts: Rollouts) -> dict[str, Tensor]:
        groups = Groups(rollouts)
        found = judge_terms(groups, rollouts.modes, self.bias)
        return found | {
            "judge_normalized": groups.normalized(found["judge_reward"]),
            "answer_normalized": groups.normalized(groups.rewards),
        }
