"""Whether enough of a step's rollouts could be judged."""

from collections.abc import Sequence

from katlit.errors import UserError
from katlit.parallel.collectives import gathered
from katlit.rollout.types import Rollout


def require_judged(rollouts: Sequence[Rollout], max_share: float, step: int) -> None:
    """Stop where too many of a step's rollouts could not be judged; every rank must call it.

    Raises:
        UserError: naming the first cause.
    """
    unjudged = [rollout.unjudged[0].reason for rollout in rollouts if rollout.unjudged]
    parts = gathered((len(unjudged), len(rollouts), unjudged[:1]))
    failed, number = (sum(part[index] for part in parts) for index in (0, 1))
    if failed > max_share * number:
        cause = next(reasons[0] for _, _, reasons in parts if reasons)
        raise UserError(
            f"{failed} of {number} rollouts of step {step} could not be judged, more than max_unjudged_share "
            f"{max_share}; the first: {cause}"
        )
