from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from typing_extensions import override

from katlit.callbacks.few_threads import FewThreads


class Watched(BoringModel):
    """A model that notes how many threads train it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spare = torch.nn.Parameter(torch.zeros(width))
        self.threads: list[int] = []

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.threads.append(torch.get_num_threads())
        return super().training_step(batch, batch_idx)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(folder: Path, width: int) -> list[int]:
    trainer = Trainer(
        accelerator="cpu", callbacks=[FewThreads()], default_root_dir=folder, fast_dev_run=True,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model = Watched(width)
    trainer.fit(model)
    return model.threads


@pytest.mark.parametrize(("width", "threads"), [(1, 1), (2_000_000, 2)])
def test_one_thread_trains_a_small_model_and_the_others_come_back(
    tmp_path: Path, width: int, threads: int
) -> None:
    assert trained(tmp_path, width) == [threads]
    assert torch.get_num_threads() == 2


def test_the_environment_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert trained(tmp_path, 1) == [2]
