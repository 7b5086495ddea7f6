import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from katlit.batch import document_ids
from katlit.packing import (
    MIN_FILL,
    SHORT_ROW_FILL,
    Document,
    best_fit_decreasing,
    bucket_by_length,
    collate,
    plan_epoch,
    shortest_rows,
)

LENGTHS = st.lists(st.integers(1, 120), min_size=1, max_size=80)


@given(LENGTHS, st.integers(40, 200))
def test_best_fit_keeps_every_document_within_the_capacity(lengths: list[int], capacity: int) -> None:
    rows = best_fit_decreasing(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in row) <= capacity or len(row) == 1 for row in rows)


@given(LENGTHS, st.integers(40, 200))
def test_no_two_rows_of_best_fit_could_be_one(lengths: list[int], capacity: int) -> None:
    fills = sorted(sum(lengths[index] for index in row) for row in best_fit_decreasing(lengths, capacity))
    assert len(fills) < 2 or fills[0] + fills[1] > capacity


def fill(lengths: list[int], rows: list[list[int]]) -> float:
    """Share of real tokens where all rows are as long as the longest."""
    return sum(lengths) / (len(rows) * max(sum(lengths[index] for index in row) for row in rows))


@given(LENGTHS, st.integers(40, 400))
def test_the_shortest_rows_are_full_and_lossless(lengths: list[int], capacity: int) -> None:
    rows = shortest_rows(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert max(sum(lengths[index] for index in row) for row in rows) <= max(capacity, *lengths)
    plain = best_fit_decreasing(lengths, max(capacity, *lengths))
    assert fill(lengths, rows) >= min(SHORT_ROW_FILL, fill(lengths, plain))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([320] * 4 + [80] * 12, [320] * 7),  # two modes
        ([320] * 16, [320] * 16),  # nothing to pack
        ([70, 60, 30], [160]),  # no shorter row would be full
    ],
)
def test_rows_are_no_longer_than_they_have_to_be(lengths: list[int], expected: list[int]) -> None:
    rows = shortest_rows(lengths, 1024)
    assert [sum(lengths[index] for index in row) for row in rows] == expected


@settings(deadline=None)
@given(LENGTHS, st.integers(120, 600), st.sampled_from([None, 130, 256]), st.integers(0, 3))
def test_batches_are_full_and_lossless(lengths: list[int], budget: int, row: int | None, epoch: int) -> None:
    plan = plan_epoch(lengths, budget, row, seed=0, epoch=epoch)
    assert sorted(index for batch in plan for rows in batch for index in rows) == list(range(len(lengths)))
    for batch in plan:
        documents = [
            [Document([5] * lengths[index], [True] * lengths[index]) for index in row] for row in batch
        ]
        tokens = collate(documents, pad_id=0)
        assert (tokens["input_ids"] != 0).float().mean() >= MIN_FILL
        assert tokens["input_ids"].numel() <= budget or len(batch) == 1


@pytest.mark.parametrize("row", [None, 512])
def test_many_rows_share_a_batch(row: int | None) -> None:
    lengths = [20 + index % 100 for index in range(2000)]
    plan = plan_epoch(lengths, 4096, row, seed=0, epoch=0)
    assert len(plan) <= 1.15 * sum(lengths) / 4096


def test_epochs_differ_and_repeat() -> None:
    lengths = [10 + index % 7 for index in range(100)]
    first, again, second = (plan_epoch(lengths, 128, None, seed=3, epoch=epoch) for epoch in (0, 0, 1))
    assert first == again
    assert first != second
    assert len(first) == len(second)
    assert first != plan_epoch(lengths, 128, None, seed=4, epoch=0)


def test_each_document_goes_where_it_fills_best() -> None:
    assert best_fit_decreasing([6, 7, 3, 4, 12], 10) == [[4], [1, 2], [0, 3]]


def test_one_long_row_ends_its_batch() -> None:
    assert bucket_by_length([100, 10, 10, 10], 1000) == [[0], [1, 2, 3]]


def test_positions_restart_and_padding_is_a_document() -> None:
    first, second = Document([1, 2, 3], [False, True, True]), Document([4, 5], [True, True])
    third = Document([6], [True])
    tokens = collate([[first, second], [third, first]], pad_id=9)
    assert tokens["input_ids"].tolist() == [[1, 2, 3, 4, 5], [6, 1, 2, 3, 9]]
    assert tokens["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 0]]
    assert document_ids(tokens["position_ids"]).tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 2]]
    # A document's first token has no left neighbour that could predict it.
    assert tokens["loss_mask"].tolist() == [
        [False, True, True, False, True],
        [False, False, True, True, False],
    ]
    assert tokens["input_ids"].dtype == tokens["position_ids"].dtype == torch.int64
