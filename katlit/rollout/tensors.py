"""The micro-batches that train on a batch of rollouts, as tensors.

Shapes: B rows, L tokens a row, N rollouts.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch

from katlit.batch import Prompt
from katlit.packing import balanced, fill_rows, shortest_rows
from katlit.rollout.record import Origin, table_row
from katlit.rollout.types import Rollout, Sampled
from katlit.text.protocol import Mode, Protocol

_MODES = {Mode.THINK_ON: 1, Mode.THINK_OFF: 0, None: -1}


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
        parts: Number of micro-batches.
        prompts: What was rolled out.
        rollouts: N of them.
        probes: All go into the first micro-batch; None where nothing has to be probed.
        row_tokens: Longest packed row.
        protocol: Protocol of the policy.
        device: Where the tensors go.
        origin: Origin of the rollouts, for their records.
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


def outcomes(rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
    """What is known of each of N rollouts, [N]."""
    return {
        "group_ids": torch.tensor([rollout.group for rollout in rollouts], dtype=torch.int64),
        "modes": torch.tensor([_MODES[rollout.parsed.mode] for rollout in rollouts], dtype=torch.int64),
        "rewards": torch.tensor([rollout.reward for rollout in rollouts], dtype=torch.float32),
        "correct": torch.tensor([rollout.correct for rollout in rollouts], dtype=torch.bool),
        "truncated": torch.tensor([rollout.truncated for rollout in rollouts], dtype=torch.bool),
        "forced": torch.tensor([rollout.forced for rollout in rollouts], dtype=torch.bool),
        "tokens": torch.tensor([len(one.completion.token_ids) for one in rollouts], dtype=torch.int64),
    }


def lay_out(
    rollouts: Sequence[Rollout],
    members: Sequence[int],
    row_tokens: int,
    protocol: Protocol,
    probes: Sequence[Sampled] | None = None,
) -> dict[str, torch.Tensor]:
    """Pack rollouts into rows; without any, one row of padding keeps the step defined.

    Args:
        rollouts: N of them.
        members: Which of them this micro-batch trains on, as indices.
        row_tokens: Longest packed row; a longer rollout has a row of its own.
        protocol: Protocol of the policy, for padding and segments.
        probes: Completions that carry no loss; None where nothing has to be probed.

    Returns:
        The tokens of a `RolloutBatch`, [B, L] each; `probe_mask` only where there are probes, or no other
        token from which to see whether engine and trainer agree, since all rollouts were truncated.
    """
    own = [rollouts[index] for index in members]
    documents: list[Rollout | Sampled] = [*own, *(probes or [])]
    lengths = [document_tokens(document) for document in documents]
    rows = shortest_rows(lengths, row_tokens) if documents else [[]]

    def filled(values: list[list[Any]], padding: Any) -> list[torch.Tensor]:
        return list(fill_rows([[values[index] for index in row] for row in rows], padding))

    tokens = [[*document.prompt_ids, *document.completion.token_ids] for document in documents]
    input_ids, position_ids = filled(tokens, protocol.pad_id)
    sampled = [
        [False] * len(document.prompt_ids) + [True] * len(document.completion.token_ids)
        for document in documents
    ]
    log_probs = [[0.0] * len(document.prompt_ids) + document.completion.log_probs for document in documents]
    number = len(own)
    nothing = [[False] * length for length in lengths]
    judge = [_judge_mask(rollout, protocol) for rollout in own] + nothing[number:]
    owners = [*members, *([-1] * (len(documents) - number))]
    owner = [[index] * length for index, length in zip(owners, lengths, strict=True)]
    probing = sampled if probes is None else nothing[:number] + sampled[number:]
    probed = probes is not None or (number > 0 and all(rollout.truncated for rollout in own))
    mask = {"probe_mask": filled(probing, False)[0]} if probed else {}
    return mask | {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "loss_mask": filled(sampled[:number] + nothing[number:], False)[0],
        "judge_mask": filled(judge, False)[0],
        "rollout_log_probs": filled(log_probs, 0.0)[0],
        "rollout_ids": filled(owner, -1)[0],
    }


def document_tokens(document: Rollout | Sampled) -> int:
    """Tokens of prompt and completion."""
    return len(document.prompt_ids) + len(document.completion.token_ids)


def _judge_mask(rollout: Rollout, protocol: Protocol) -> list[bool]:
    """True on the sampled tokens through the mode marker; a forced judge is not sampled."""
    ids = rollout.completion.token_ids
    judge = 0 if rollout.forced else protocol.judge_length(ids)
    return [False] * len(rollout.prompt_ids) + [True] * judge + [False] * (len(ids) - judge)
