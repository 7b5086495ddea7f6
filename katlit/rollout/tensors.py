"""The micro-batches that train on a batch of rollouts."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from katlit.batch import Prompt, RolloutBatch
from katlit.packing import balanced
from katlit.rollout.record import Origin
from katlit.rollout.requests import table_row
from katlit.rollout.types import Rollout, Sampled, document_tokens, lay_out, outcomes
from katlit.text.protocol import Protocol


def fill(
    parts: int,
    prompts: Sequence[Prompt],
    rollouts: Sequence[Rollout],
    probes: Sequence[Sampled] | None,
    row_tokens: int,
    protocol: Protocol,
    device: torch.device,
    origin: Origin,
    left_out: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Divide rollouts among micro-batches of nearly equal numbers of tokens, as tensors and rows of a table.

    Rollouts of one prompt may be in several micro-batches: each knows the outcomes of all rollouts, so their
    advantages do not depend on it. Unjudged ones carry no loss and are in no group's statistics: they are
    rows of the first micro-batch alone, without tensors.

    Args:
        parts: How many micro-batches.
        prompts: What was rolled out.
        rollouts: N of them.
        probes: All go into the first micro-batch; None where nothing has to be probed.
        row_tokens: Longest packed row.
        protocol: Of the policy.
        device: Where the tensors go.
        origin: Of the rollouts, for their records.
        left_out: Groups that are not trained on; what they earned is known all the same.

    Returns:
        All of a `RolloutBatch` but its prompts and what the module writes, for each micro-batch.
    """
    rows = [
        table_row(rollout, prompts, protocol, origin, left_out=rollout.group in left_out)
        for rollout in rollouts
    ]
    unjudged = [row for row, rollout in zip(rows, rollouts, strict=True) if rollout.unjudged]
    samples = [row for row, rollout in zip(rows, rollouts, strict=True) if not rollout.unjudged]
    rollouts = [rollout for rollout in rollouts if not rollout.unjudged]
    difficulties = torch.tensor([prompts[r.group]["difficulty"] for r in rollouts], dtype=torch.int64)
    known = outcomes(rollouts) | {"difficulties": difficulties}
    known = {name: tensor.to(device) for name, tensor in known.items()}
    filled = []
    kept = [index for index, rollout in enumerate(rollouts) if rollout.group not in left_out]
    for places in balanced([document_tokens(rollouts[index]) for index in kept], parts):
        members = [kept[place] for place in places]
        tokens = lay_out(rollouts, members, row_tokens, protocol, probes)
        tokens = {name: tensor.to(device) for name, tensor in tokens.items()}
        filled.append(known | tokens | {"samples": samples, "unjudged": unjudged})
        unjudged = []
        probes = None if probes is None else []
    return filled


def in_order(parts: Sequence[Sequence[Rollout]]) -> list[Rollout]:
    """The rollouts of every n-th prompt, for each of n ranks, as those of all prompts."""
    all_of_them = [
        replace(rollout, group=rollout.group * len(parts) + rank)
        for rank, part in enumerate(parts)
        for rollout in part
    ]
    return sorted(all_of_them, key=lambda rollout: rollout.group)


def prompts_of(batches: Sequence[RolloutBatch]) -> list[Prompt]:
    """The prompts of some batches, in order."""
    return [prompt for batch in batches for prompt in batch["prompts"]]
