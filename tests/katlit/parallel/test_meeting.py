from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch.distributed as dist

from katlit.parallel import meeting
from katlit.parallel.meeting import Meeting, devices_of


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


def test_they_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are threads here."""
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(variable, "")  # to be restored
    store = dist.HashStore()
    monkeypatch.setattr(meeting, "rendezvous", lambda *_: iter([(store, 0, 3)]))
    monkeypatch.setattr(meeting, "_SECONDS", 0.001)
    environment = Mock(main_address="localhost", main_port=1, creates_processes_externally=True)
    environment.local_rank.return_value = 0
    before: list[int] = []

    def work(rank: int) -> int:
        met = Meeting(environment, rank, 3)
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
