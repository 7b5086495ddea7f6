"""The batches of an optimizer step, filled with their rollouts."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from katlit.batch import RolloutBatch
from katlit.protocol import Protocol
from katlit.rollout.layout import Rollout, Sampled, lay_out
from katlit.rollout.record import Origin
from katlit.rollout.roll_out import table_row


def fill(
    window: Sequence[RolloutBatch],
    rollouts: Sequence[Rollout],
    probes: Sequence[Sampled] | None,
    row_tokens: int,
    protocol: Protocol,
    device: torch.device,
    origin: Origin,
) -> None:
    """Give each batch the rollouts of its own prompts, as tensors and as rows of a table, in place.

    Unjudged ones are apart, without tensors: they carry no loss and are in no group's statistics.

    Args:
        window: The batches.
        rollouts: Their groups count the prompts of the whole window.
        probes: All go into the first batch; None where nothing has to be probed.
        row_tokens: Length of a packed row.
        protocol: Of the policy.
        device: Where the tensors go.
        origin: Of the rollouts, for their records.
    """
    first = 0
    for part in window:
        groups = range(first, first := first + len(part["prompts"]))
        here = [replace(r, group=r.group - groups.start) for r in rollouts if r.group in groups]
        own = [rollout for rollout in here if not rollout.unjudged]
        tensors = lay_out(own, row_tokens, protocol, probes)
        part.update({name: tensor.to(device) for name, tensor in tensors.items()})  # type: ignore[typeddict-item]
        part["samples"] = [table_row(rollout, part["prompts"], protocol, origin) for rollout in own]
        part["unjudged"] = [
            table_row(rollout, part["prompts"], protocol, origin) for rollout in here if rollout.unjudged
        ]
        probes = None if probes is None else []
