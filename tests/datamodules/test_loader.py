from collections.abc import Iterable
from typing import Any

import pytest
from lightning.pytorch import Trainer

from katlit.datamodules.loader import EpochLoader, Share, shard, share_of

WHOLE = Share()


def numbers(share: Share = WHOLE) -> EpochLoader[int, Any]:
    return EpochLoader(lambda epoch: [10 * epoch + index for index in range(4)], batch_of, share)


def batch_of(number: int) -> dict[str, Any]:
    return {"number": number}


def seen_in(batches: Iterable[dict[str, Any]]) -> list[int]:
    return [batch["number"] for batch in batches]


def test_epochs_and_length() -> None:
    batches = numbers()
    assert len(batches) == 4
    assert seen_in(batches) == seen_in(batches) == [0, 1, 2, 3]
    batches.sampler.set_epoch(2)
    assert seen_in(batches) == [20, 21, 22, 23]


def test_nothing_is_built_before_it_is_asked_for() -> None:
    built: list[int] = []

    def build(number: int) -> dict[str, Any]:
        built.append(number)
        return batch_of(number)

    iterator = iter(EpochLoader(lambda epoch: range(3), build))
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
    assert seen_in([*seen, *second]) == [10, 11, 12, 13]
    assert seen_in(second) == [10, 11, 12, 13]


@pytest.mark.parametrize(("epoch", "left"), [(0, []), (1, [10, 11, 12, 13])])
def test_of_a_finished_epoch_nothing_is_left_and_another_one_starts_afresh(
    epoch: int, left: list[int]
) -> None:
    first = numbers()
    list(first)
    second = numbers()
    second.load_state_dict(first.state_dict())
    second.set_epoch(epoch)
    assert seen_in(second) == left


@pytest.mark.parametrize(("count", "world"), [(7, 2), (8, 2), (1, 3), (5, 5), (0, 2)])
@pytest.mark.parametrize("window", [1, 3])
def test_ranks_get_equally_many_complete_steps_and_together_everything(
    count: int, world: int, window: int
) -> None:
    plan = list(range(count))
    shards = [shard(plan, Share(rank, world, window)) for rank in range(world)]
    assert len({len(part) for part in shards}) == 1
    assert all(len(part) % window == 0 for part in shards)
    assert {item for part in shards for item in part} == set(plan)
    assert sum(map(len, shards)) < count + world * window


@pytest.mark.parametrize("stop", range(5))
def test_a_state_between_two_updates_goes_on_within_what_belongs_together(stop: int) -> None:
    share = Share(updates=2)
    assert numbers(share).updates == 2
    whole = list(numbers(share))
    assert [seen_in(batch["window"]) for batch in whole] == [[0, 1], [], [2, 3], []]
    first = numbers(share)
    list(zip(range(stop), first, strict=False))
    first._position = stop  # zip takes one more
    second = numbers(share)
    second.load_state_dict(first.state_dict())
    assert list(second) == whole[stop:]


def test_the_loader_shards() -> None:
    batches = numbers(Share(rank=1, world=3))
    assert len(batches) == 2
    assert seen_in(batches) == [1, 0]


def test_a_step_of_several_batches_is_announced_by_its_first() -> None:
    batches = list(numbers(Share(rank=1, world=2, step=2)))
    assert seen_in(batches) == [1, 3]
    assert seen_in(batches[0]["window"]) == [1, 3]
    assert batches[1]["window"] == []
    assert "window" not in next(iter(numbers()))


@pytest.mark.parametrize("share", [WHOLE, Share(step=2), Share(rank=1, world=2), Share(updates=4)])
def test_what_is_announced_is_what_comes(share: Share) -> None:
    batches = numbers(share)
    announced: list[int] = []
    for index, batch in enumerate(batches):
        if index % share.window == 0:
            assert index == 0 or announced == seen_in(batch.get("window", [batch]))
            announced = seen_in(batches.upcoming())
        assert announced == seen_in(batches.upcoming())  # within a step too
    assert announced == []


def test_the_share_of_a_trainer() -> None:
    trainer = Trainer(accelerator="cpu", accumulate_grad_batches=4, logger=False)
    assert share_of(trainer) == Share(0, 1, 4)
    assert share_of(trainer, steps=False) == Share(0, 1, 1)
    assert share_of(trainer, updates=3) == Share(0, 1, 4, 3)
    assert share_of(None) == Share(0, 1, 1)
