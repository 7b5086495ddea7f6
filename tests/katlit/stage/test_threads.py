from collections.abc import Iterator

import pytest
import torch
from torch import nn

from katlit.stage.threads import choose_threads

SMALL, LARGE = nn.Linear(100, 100), nn.Linear(2000, 2000)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("model", "number"), [(SMALL, 1), (LARGE, 2)])
def test_one_thread_computes_a_small_model(model: nn.Module, number: int) -> None:
    choose_threads(model)
    assert torch.get_num_threads() == number


def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    choose_threads(SMALL)
    assert torch.get_num_threads() == 2
