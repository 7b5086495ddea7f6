from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch.distributed as dist

from katlit.errors import UserError
from katlit.parallel import meeting
from katlit.parallel.meeting import Meeting, devices_of, named_devices


@pytest.mark.parametrize(
    ("visible", "count", "number", "shares"),
    [
        (None, 8, 8, ["0", "1", "2", "3", "4", "5", "6", "7"]),
        (None, 8, 2, ["0,1,2,3", "4,5,6,7"]),
        ("4,6,7", 3, 3, ["4", "6", "7"]),
        ("GPU-a,GPU-b,GPU-c", 3, 2, ["GPU-a", "GPU-b"]),
        (None, 0, 2, [None, None]),
        (None, 1, 2, [None, None]),
    ],
)
def test_each_process_has_devices_of_its_own(
    visible: str | None, count: int, number: int, shares: list[str | None]
) -> None:
    assert [devices_of(visible, count, rank, number) for rank in range(number)] == shares


@pytest.mark.parametrize(
    ("setting", "visible", "shares"),
    [
        ([4, 5], None, ["4", "5"]),
        ("4,5", None, ["4", "5"]),
        ([0, 1], "GPU-a,GPU-b,GPU-c,GPU-d,GPU-e,GPU-f,GPU-g,GPU-h", ["GPU-a", "GPU-b"]),
        ([7, 0, 6, 1], None, ["7,0", "6,1"]),
        (2, None, ["0,1,2,3", "4,5,6,7"]),
        ("2", None, ["0,1,2,3", "4,5,6,7"]),
        ("auto", None, ["0,1,2,3", "4,5,6,7"]),
    ],
)
def test_devices_that_are_named_are_shared_and_no_others(
    setting: object, visible: str | None, shares: list[str]
) -> None:
    named = named_devices(setting)
    assert [devices_of(visible, 8, rank, 2, named) for rank in range(2)] == shares


@pytest.fixture
def meet(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Meeting]:
    """Have a process take part, which is a thread here."""
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(variable, "")  # to be restored
    store = dist.HashStore()
    monkeypatch.setattr(meeting, "rendezvous", lambda *_: iter([(store, 0, 3)]))
    monkeypatch.setattr(meeting, "_SECONDS", 0.001)
    environment = Mock(main_address="localhost", main_port=1, creates_processes_externally=True)
    environment.local_rank.return_value = 0
    return lambda rank: Meeting(environment, rank, 3)


def test_they_wait_for_each_other(meet: Callable[[int], Meeting]) -> None:
    before: list[int] = []

    def work(rank: int) -> int:
        met = meet(rank)
        if rank == 0:
            before.append(rank)
            met.arrive("first")
        met.wait("first", 1)
        assert before[0] == 0
        before.append(rank)
        met.arrive("all")
        met.wait("all")
        return len(before)

    with ThreadPoolExecutor(3) as ranks:
        assert list(ranks.map(work, range(3))) == [4, 4, 4]


def test_none_waits_for_one_that_has_failed(meet: Callable[[int], Meeting]) -> None:
    def work(rank: int) -> str:
        met = meet(rank)
        if rank == 1:
            met.fail()
            return ""
        with pytest.raises(UserError) as raised:
            met.wait("all" if rank else "made", 3)
        return str(raised.value)

    with ThreadPoolExecutor(3) as ranks:
        told = list(ranks.map(work, range(3)))
    assert told == ["another process has failed, and says why; mend that and run again", "", told[0]]


def test_a_folder_that_is_not_shared_is_named(
    meet: Callable[[int], Meeting], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third process has another folder."""
    monkeypatch.setattr(meeting, "_LATE", 0.1)

    def work(rank: int) -> str:
        met = meet(rank)
        try:
            met.require_shared(tmp_path / ("other" if rank == 2 else "cache"), "data.cache_dir")
        except UserError as error:
            met.fail()
            return str(error)
        return "shared"

    with ThreadPoolExecutor(3) as ranks:
        first, second, third = ranks.map(work, range(3))
    assert first.startswith("another process has failed")
    assert second == "shared"
    assert third.startswith(f"data.cache_dir: {str(tmp_path / 'other')!r} of machine ")
    assert list(tmp_path.rglob("*")) == [tmp_path / "cache"]


def test_a_first_process_that_is_gone_is_told(
    meet: Callable[[int], Meeting], monkeypatch: pytest.MonkeyPatch
) -> None:
    met = meet(1)
    monkeypatch.setattr(met, "_store", Mock(**{"add.side_effect": dist.DistNetworkError("Broken pipe")}))
    met.fail()
    with pytest.raises(UserError, match="the first process is gone"):
        met.wait("all")
