"""Targets of multi-token prediction against a walk through the documents."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from katlit.losses.mtp import paired_first, target_indices, within_reach

ROWS = st.integers(1, 3).flatmap(
    lambda rows: st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=rows, max_size=rows)
)


def positions_of(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(sum, rows))
    documents = [[*row, width - sum(row)] for row in rows]  # the padding is a document of its own
    return torch.tensor([[p for length in row for p in range(length)] for row in documents])


@given(ROWS, st.integers(0, 3), st.integers(0, 2**16))
def test_a_target_and_its_predictor_share_a_document(rows: list[list[int]], depth: int, seed: int) -> None:
    positions = positions_of(rows)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(positions.shape, generator=generator) < 0.6
    expected = []
    for row in range(len(positions)):
        for column in range(positions.shape[1]):
            start = column  # where this token's document begins
            while positions[row, start] != 0:
                start -= 1
            if mask[row, column] and column - depth - 1 >= start:
                expected.append(row * positions.shape[1] + column)
    assert target_indices(mask, positions, depth).tolist() == expected
    chosen = target_indices(mask, positions, 0)
    assert chosen[within_reach(chosen, positions, depth)].tolist() == expected


@given(ROWS, st.integers(0, 2**16))
def test_targets_with_a_teacher_come_first(rows: list[list[int]], seed: int) -> None:
    positions = positions_of(rows)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(positions.shape, generator=generator) < 0.6
    targets = target_indices(mask, positions, 0)
    shuffled = targets[torch.randperm(len(targets), generator=generator)]
    paired = shuffled[: len(shuffled) // 2]
    found = paired_first(paired, mask, positions)
    assert found[: len(paired)].tolist() == paired.tolist()
    assert sorted(found.tolist()) == targets.tolist()
