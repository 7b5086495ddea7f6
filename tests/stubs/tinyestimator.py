"""An estimator of somebody else's, which looks at the lengths of responses."""

from torch import Tensor
from typing_extensions import override

from katlit.advantages import AdvantageEstimator, Groups, Rollouts


class Shorter(AdvantageEstimator):
    """Shorter responses than the group's mean are better; the rewards do not matter.

    Args:
        scale: Advantage of a token less.
    """

    formula = "judge = answer = scale * tokens spared"
    words = {"tokens": "tokens of the response", "spared": "tokens spared"}  # noqa: RUF012
    learns_from_flat_groups = True

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    @override
    def __call__(self, rollouts: Rollouts) -> Tensor:
        return (self.scale * self.terms(rollouts)["spared"]).float()[:, None].expand(-1, 2)

    @override
    def terms(self, rollouts: Rollouts) -> dict[str, Tensor]:
        tokens = rollouts.tokens.double()
        return {"tokens": tokens, "spared": -Groups(rollouts).centred(tokens)}


class OneColumn(Shorter):
    """Gives one advantage a rollout, which is a mistake."""

    @override
    def __call__(self, rollouts: Rollouts) -> Tensor:
        return super().__call__(rollouts)[:, 0]
