"""From documents to batches with at most 5 % padding: packed rows or length-bucketed ones; pure functions.

Shapes: B rows, L tokens a row.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from katlit.batch import TokenBatch

# At least this share of a batch is not padding; a batch is closed early rather than break it.
MIN_FILL = 0.95
# Rows of this share of real tokens are full enough to be taken because they are short.
SHORT_ROW_FILL = 0.97
# Most row lengths that are tried for one batch.
_TRIALS = 32


@dataclass(frozen=True, slots=True)
class Document:
    """One conversation as tokens; `loss_mask` is True where the token itself is a target."""

    token_ids: list[int]
    loss_mask: list[bool]


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute documents over rows of at most `capacity` tokens, in n log n time.

    The classic heuristic: longest first, each into the row that it fills best. A document longer than the
    capacity gets a row of its own, because it is never cut.

    Returns:
        The indices of each row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), ascending
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = bisect_left(room, (lengths[index], 0))
        if place == len(room):
            rows.append([])
            left, row = capacity, len(rows) - 1
        else:
            left, row = room.pop(place)
        rows[row].append(index)
        insort(room, (left - lengths[index], row))
    return rows


def balanced(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Distribute documents over parts of nearly equal numbers of tokens: longest first, to the emptiest part.

    Returns:
        The indices of each part, ascending; the fullest part exceeds the mean by less than the longest
        document.
    """
    members: list[list[int]] = [[] for _ in range(parts)]
    filled = [0] * parts
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        emptiest = filled.index(min(filled))
        members[emptiest].append(index)
        filled[emptiest] += lengths[index]
    return [sorted(part) for part in members]


def shortest_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute documents over the shortest rows that are at least `SHORT_ROW_FILL` full.

    Attention costs the square of a row's length, whatever documents it holds, and all other layers do not
    care; so a long row only earns its cost where shorter ones would leave more padding. Where no length is
    that full, the fullest one tried is taken.

    Args:
        lengths: Tokens of each document; at least one document.
        capacity: Longest row, but for a longer document, which is never cut.

    Returns:
        The indices of each row.
    """
    longest, total = max(lengths), sum(lengths)
    capacity = max(capacity, longest)
    fullest = best_fit_decreasing(lengths, capacity)
    most, fewest = total // longest, total // capacity
    for number in range(most, fewest, -max(1, (most - fewest) // _TRIALS)):
        # The longest rows of which that many are full enough: the most room to fit the documents in.
        rows = best_fit_decreasing(lengths, min(capacity, int(total / (SHORT_ROW_FILL * number))))
        if _fill(lengths, rows) >= SHORT_ROW_FILL:
            return rows
        fullest = max(fullest, rows, key=lambda rows: _fill(lengths, rows))
    return fullest


def _fill(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> float:
    """Share of real tokens, where all rows are padded to the longest."""
    return sum(lengths) / (len(rows) * max(sum(lengths[index] for index in row) for row in rows))


def bucket_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group rows of similar length so that rows times longest row stays within `batch_tokens`.

    A group also ends where one more row would take its share of real tokens below `MIN_FILL`; so the bound
    holds for every batch and any lengths. A row longer than the budget is a batch of its own.

    Returns:
        The indices of each batch, longest rows first.
    """
    batches: list[list[int]] = []
    longest = filled = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        size = (len(batches[-1]) + 1) * longest if batches else 0
        if not batches or size > batch_tokens or filled + lengths[index] < MIN_FILL * size:
            batches.append([])
            longest, filled = lengths[index], 0
        batches[-1].append(index)
        filled += lengths[index]
    return batches


def plan_epoch(
    lengths: Sequence[int], batch_tokens: int, row_tokens: int | None, seed: int, epoch: int
) -> list[list[list[int]]]:
    """Compose an epoch: batches of rows of document indices.

    The number of batches depends on the lengths alone; which of equally long documents meet, and the order
    of the batches, change from epoch to epoch.

    Args:
        lengths: Tokens of each document.
        batch_tokens: Most tokens of a batch, padding included.
        row_tokens: Length of packed rows; None puts one document in each row.
        seed: Seed of the order.
        epoch: Number of the epoch.
    """
    random = Random(f"{seed}/{epoch}")  # noqa: S311 (an order, not a secret)
    shuffled = list(range(len(lengths)))
    random.shuffle(shuffled)
    mixed = [lengths[index] for index in shuffled]
    rows = (
        [[index] for index in range(len(mixed))]
        if row_tokens is None
        else best_fit_decreasing(mixed, row_tokens)
    )
    row_lengths = [sum(mixed[index] for index in row) for row in rows]
    batches = [
        [[shuffled[index] for index in rows[row]] for row in batch]
        for batch in bucket_by_length(row_lengths, batch_tokens)
    ]
    random.shuffle(batches)
    return batches


def fill_rows(
    rows: Sequence[Sequence[Sequence[int]]], pad_id: int
) -> tuple[Tensor, Tensor]:  # -> [B, L], [B, L]
    """Lay documents side by side; positions restart at each, and the padding is a document of its own.

    Returns:
        Token ids and position ids, int64.
    """
    width = max(1, *(sum(len(document) for document in row) for row in rows))
    token_ids, position_ids = [], []
    for row in rows:
        documents = [list(document) for document in row]
        documents.append([pad_id] * (width - sum(map(len, documents))))
        token_ids.append([token for document in documents for token in document])
        position_ids.append([position for document in documents for position in range(len(document))])
    return torch.tensor(token_ids), torch.tensor(position_ids)


def collate(rows: Sequence[Sequence[Document]], pad_id: int) -> TokenBatch:
    """Turn rows of documents into tensors; a document's first token is never a target."""
    input_ids, position_ids = fill_rows([[document.token_ids for document in row] for row in rows], pad_id)
    loss_mask, _ = fill_rows([[document.loss_mask for document in row] for row in rows], 0)
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "loss_mask": loss_mask.bool() & (position_ids > 0),
    }
