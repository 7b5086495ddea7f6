from types import SimpleNamespace
from typing import Any

import pytest
import torch

from katlit.callbacks.throughput import Throughput


class Module:
    backbone = SimpleNamespace(protocol=SimpleNamespace(pad_id=7))

    def __init__(self) -> None:
        self.logged: list[tuple[str, float, str]] = []

    def log(self, name: str, value: Any, *, reduce_fx: str, **_: Any) -> None:
        self.logged.append((name, float(value), reduce_fx))


def test_tokens_are_counted_without_padding_and_without_the_time_of_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([10.0, 12.0, 50.0, 50.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    throughput, module, trainer = Throughput(), Module(), SimpleNamespace(accumulate_grad_batches=1)
    batch = {"input_ids": torch.tensor([[1, 2, 3, 7], [4, 7, 7, 7]])}
    throughput.on_train_start(trainer, module)
    throughput.on_train_batch_end(trainer, module, None, batch, 0)
    throughput.on_validation_end(trainer, module)
    throughput.on_train_batch_end(trainer, module, None, batch, 1)
    assert module.logged == [
        ("throughput/tokens_per_second", 2.0, "sum"),
        ("throughput/step_seconds", 2.0, "mean"),
        ("throughput/tokens_per_second", 8.0, "sum"),
        ("throughput/step_seconds", 0.5, "mean"),
    ]


def test_the_micro_batches_of_a_step_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 13.0, 14.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    throughput, module, trainer = Throughput(), Module(), SimpleNamespace(accumulate_grad_batches=2)
    throughput.on_train_start(trainer, module)
    for index, ids in enumerate([[1, 2, 7], [3, 4, 5]]):
        throughput.on_train_batch_end(trainer, module, None, {"input_ids": torch.tensor([ids])}, index)
    assert module.logged == [
        ("throughput/tokens_per_second", 1.25, "sum"),
        ("throughput/step_seconds", 4.0, "mean"),
    ]
