from typing import Any

import pytest

from datamodules import loader
from datamodules.loader import EpochLoader, shard


def numbers() -> EpochLoader[int, str]:
    return EpochLoader(lambda epoch: [10 * epoch + index for index in range(4)], str)


def test_epochs_and_length() -> None:
    batches = numbers()
    assert len(batches) == 4
    assert list(batches) == list(batches) == ["0", "1", "2", "3"]
    batches.sampler.set_epoch(2)
    assert list(batches) == ["20", "21", "22", "23"]


def test_nothing_is_built_before_it_is_asked_for() -> None:
    built: list[int] = []
    iterator = iter(EpochLoader(lambda epoch: range(3), built.append))
    assert built == []
    next(iterator)
    assert built == [0]


def test_a_state_within_an_epoch_continues_it_once() -> None:
    first = numbers()
    first.set_epoch(1)
    iterator = iter(first)
    seen = [next(iterator), next(iterator)]
    second = numbers()
    second.load_state_dict(first.state_dict())
    second.set_epoch(1)
    assert seen + list(second) == ["10", "11", "12", "13"]
    assert list(second) == ["10", "11", "12", "13"]


def test_a_state_of_a_finished_or_other_epoch_starts_afresh() -> None:
    first = numbers()
    list(first)
    for epoch in (0, 1):
        second = numbers()
        second.load_state_dict(first.state_dict())
        second.set_epoch(epoch)
        assert len(list(second)) == 4


@pytest.mark.parametrize(("count", "world"), [(7, 2), (8, 2), (1, 3), (5, 5), (0, 2)])
def test_ranks_get_equally_many_and_together_everything(count: int, world: int) -> None:
    plan = list(range(count))
    shards = [shard(plan, rank, world) for rank in range(world)]
    assert len({len(part) for part in shards}) == 1
    assert {item for part in shards for item in part} == set(plan)
    assert sum(map(len, shards)) < count + world


def test_the_loader_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "rank_and_world", lambda: (1, 3))
    batches: Any = numbers()
    assert len(batches) == 2
    assert list(batches) == ["1", "0"]
