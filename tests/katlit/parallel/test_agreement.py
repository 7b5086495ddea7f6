from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from katlit.parallel.agreement import all_agree


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bool]]:
    """The verdict of each of some ranks out of two, which are threads here."""
    store = dist.HashStore()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)

    def ask(*able: bool, seconds: float = 60.0) -> list[bool]:
        with ThreadPoolExecutor(len(able)) as ranks:
            return list(ranks.map(lambda each: all_agree("it", able=each, seconds=seconds), able))

    return ask


@pytest.mark.parametrize("able", [(True, True), (True, False), (False, True), (False, False)])
def test_all_say_the_same(able: tuple[bool, bool], ask: Callable[..., list[bool]]) -> None:
    assert ask(*able) == [all(able)] * 2


def test_a_rank_that_does_not_come_is_not_waited_for(ask: Callable[..., list[bool]]) -> None:
    assert ask(True, seconds=0.1) == [False]
    assert ask(True) == [False]  # it comes too late


def test_one_process_agrees_with_itself() -> None:
    assert all_agree("it", able=True, seconds=0)
    assert not all_agree("it", able=False, seconds=0)
