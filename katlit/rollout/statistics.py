"""What is reported of the rollouts of a step."""

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from katlit.metrics.tally import Tally, tally
from katlit.rollout.flat_groups import flat_groups
from katlit.rollout.types import Rollout, response_ids
from katlit.text.protocol import Mode, Protocol
from katlit.text.tool_calls import ToolCallFault

_CALL_FAULTS = frozenset(fault.value for fault in ToolCallFault)  # which violations are called alike


def response_tokens(rollout: Rollout, protocol: Protocol) -> int:
    """Length of the response, a forced judge counted."""
    return len(response_ids(rollout, protocol))


def policy_columns(rollouts: Sequence[Rollout], protocol: Protocol, device: torch.device) -> list[Tensor]:
    """The N rollouts as `PolicyMetrics` takes them: its five arguments, [N] int64 each."""
    rows = [
        (
            rollout.correct and not rollout.unjudged,
            response_tokens(rollout, protocol),
            rollout.parsed.mode is Mode.THINK_ON,
            rollout.parsed.valid,
            bool(rollout.unjudged),
        )
        for rollout in rollouts
    ]
    columns = torch.tensor(rows, dtype=torch.int64, device=device).reshape(-1, 5)
    return list(columns.unbind(dim=1))


def statistics(
    rollouts: Sequence[Rollout], protocol: Protocol, components: Iterable[str]
) -> dict[str, Tally]:
    """Means over the rollouts, rewards over those that are judged, the think rate over those not forced.

    Args:
        rollouts: Rollouts of a step, on this rank.
        protocol: Protocol of the policy.
        components: Components of the reward, each a mean of its own, unweighted, as `reward/<component>`.
    """
    judged = [rollout for rollout in rollouts if not rollout.unjudged]
    return {
        "reward": tally(rollout.reward for rollout in judged),
        "accuracy": tally(rollout.correct for rollout in judged),
        "format_valid": tally(rollout.parsed.valid for rollout in rollouts),
        "malformed_calls": tally(rollout.parsed.violation in _CALL_FAULTS for rollout in rollouts),
        "truncated": tally(rollout.truncated for rollout in rollouts),
        "think_rate": tally(
            rollout.parsed.mode is Mode.THINK_ON for rollout in rollouts if not rollout.forced
        ),
        "mean_tokens": tally(response_tokens(rollout, protocol) for rollout in rollouts),
        **{f"reward/{name}": _component_mean(rollouts, name) for name in components},
    }


def _component_mean(rollouts: Sequence[Rollout], component: str) -> Tally:
    values = (rollout.verdicts[component].value for rollout in rollouts)
    return tally(value for value in values if value is not None)


def unjudged(rollouts: Sequence[Rollout]) -> dict[str, Tally]:
    """The shares that a reward could not judge, because of an error, or of time that ran out."""
    return {
        "unjudged": tally(bool(rollout.unjudged) for rollout in rollouts),
        "unjudged_errors": tally(_has_failed(rollout, timed_out=False) for rollout in rollouts),
        "unjudged_timeouts": tally(_has_failed(rollout, timed_out=True) for rollout in rollouts),
    }


def _has_failed(rollout: Rollout, *, timed_out: bool) -> bool:
    return any(verdict.timed_out is timed_out for verdict in rollout.unjudged)


def shares(rollouts: Sequence[Rollout], left_out: Collection[int]) -> dict[str, Tally]:
    """Flat groups and those left out of the training, over all groups."""
    number = len({rollout.group for rollout in rollouts})
    return {
        "flat_groups": Tally(len(flat_groups(rollouts)), number),
        "left_out_groups": Tally(len(left_out), number),
    }
