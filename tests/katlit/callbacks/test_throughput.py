from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tinymodel import QWEN
from transformers import AutoConfig

from katlit.callbacks.rollout.sampler import RolloutSampler
from katlit.callbacks.throughput import Throughput, peak_memory
from katlit.engines import HFEngine

PAD = 7


class Module:
    device = torch.device("cpu")
    trains_mtp = False

    def __init__(self) -> None:
        self.backbone = SimpleNamespace(
            protocol=SimpleNamespace(pad_id=PAD),
            causal_lm=SimpleNamespace(config=AutoConfig.for_model(**QWEN, vocab_size=300)),
            mtp=[None],
        )
        self.logged: list[tuple[str, float, str]] = []

    def log(self, name: str, value: Any, *, reduce_fx: str, **_: Any) -> None:
        self.logged.append((name.removeprefix("throughput/"), float(value), reduce_fx))

    def values(self, *names: str) -> list[tuple[str, float, str]]:
        return [entry for entry in self.logged if entry[0] in names]


def batch(*rows: list[int]) -> dict[str, torch.Tensor]:
    """Each row a document, then padding as a document of its own."""
    ids = torch.tensor(rows)
    real = ids != PAD
    columns = torch.arange(ids.shape[1]).expand_as(ids)
    return {"input_ids": ids, "position_ids": torch.where(real, columns, columns - real.sum(1, keepdim=True))}


def clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    left = iter(times)
    monkeypatch.setattr("time.perf_counter", lambda: next(left))


def trainer(*callbacks: Any) -> Any:
    return SimpleNamespace(
        global_step=0,
        callbacks=list(callbacks),
        world_size=1,
        distributed_sampler_kwargs=None,
    )


def train_on(throughput: Throughput, trained: Any, module: Any, data: Any, *, ends_step: bool = True) -> None:
    throughput.on_train_batch_start(trained, module, data, 0)
    throughput.on_after_backward(trained, module)
    if ends_step:
        throughput.on_before_optimizer_step(trained, module, None)
    trained.global_step += ends_step
    throughput.on_train_batch_end(trained, module, None, data, 0)


def test_tokens_are_counted_without_padding_and_without_the_time_of_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock(monkeypatch, 10.0, 10.5, 11.5, 11.6, 12.0, 50.0, 50.1, 50.2, 50.3, 50.5)
    throughput, module, trained = Throughput(), Module(), trainer()
    data = batch([1, 2, 3, 7], [4, 7, 7, 7])
    throughput.on_train_start(trained, module)
    train_on(throughput, trained, module, data)
    throughput.on_validation_end(trained, module)
    train_on(throughput, trained, module, data)
    assert module.values("tokens_per_second", "samples_per_second", "step_seconds") == [
        ("tokens_per_second", 2.0, "sum"),
        ("samples_per_second", 1.0, "sum"),
        ("step_seconds", 2.0, "mean"),
        ("tokens_per_second", 8.0, "sum"),
        ("samples_per_second", 4.0, "sum"),
        ("step_seconds", 0.5, "mean"),
    ]
    assert [value for _, value, _ in module.values("forward_backward_share")] == pytest.approx([0.5, 0.2])
    assert [value for _, value, _ in module.values("optimizer_seconds")] == pytest.approx([0.4, 0.2])
    assert [value for _, value, _ in module.values("tokens_total")] == [4, 8]
    resumed = Throughput()
    resumed.load_state_dict(throughput.state_dict())
    assert resumed.state_dict() == {"tokens": 8.0}
    assert module.values("mfu", "rollout_share") == []


def test_the_micro_batches_of_a_step_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 10.0, 10.0, 12.0, 13.0, 13.0, 13.5, 13.75, 14.0)
    throughput, module, trained = Throughput(), Module(), trainer()
    throughput.on_train_start(trained, module)
    train_on(throughput, trained, module, batch([1, 2, 7]), ends_step=False)
    assert module.logged == []
    train_on(throughput, trained, module, batch([3, 4, 5]))
    assert module.values("tokens_per_second", "samples_per_second", "forward_backward_share") == [
        ("tokens_per_second", 1.25, "sum"),
        ("samples_per_second", 0.5, "sum"),
        ("forward_backward_share", 2.5 / 4, "mean"),
    ]


def test_the_time_of_rollouts_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.0, 0.0, 8.0, 9.0, 10.0)
    sampler = RolloutSampler(HFEngine())
    sampler.seconds = {"sync": 0.5, "sample": 3.0, "reward": 1.0, "layout": 0.25}
    throughput, module, trained = Throughput(), Module(), trainer(sampler)
    throughput.on_train_start(trained, module)
    train_on(throughput, trained, module, batch([1]))
    shares = {name: value for name, value, _ in module.logged if name.endswith("_share")}
    assert shares == {
        "forward_backward_share": 0.325, "optimizer_share": 0.1,
        "rollout_share": 0.3, "reward_share": 0.1, "sync_share": 0.05,
    }  # fmt: skip
    seconds = {name.removesuffix("_seconds"): value for name, value, _ in module.logged if "_sec" in name}
    seconds = {name: value for name, value in seconds.items() if f"{name}_share" in shares}
    assert seconds == {"forward_backward": 3.25, "optimizer": 1, "rollout": 3, "reward": 1, "sync": 0.5}


def test_utilisation_is_that_of_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.0, 0.0, 1.0, 1.5, 2.0)
    throughput, module = Throughput(peak_flops=1e6), Module()
    throughput.on_train_start(trainer(), module)
    train_on(throughput, trainer(), module, batch([1, 2, 3, 7], [4, 5, 7, 7]))
    # Two layers: q and o 32·32, k and v 32·16, biases 32 + 2·16, MLP 3·32·48, two norms; a norm, the head.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 64 + 3 * 32 * 48 + 2 * 32
    active = 2 * layer + 32 + 300 * 32
    # five tokens; documents of three and two tokens attend to 9 + 4
    flops = 6 * active * 5 + 12 * 2 * 32 * 13
    assert module.values("mfu") == [("mfu", pytest.approx(flops / 2e6), "mean")]


def test_memory_is_the_peak_of_the_process() -> None:
    before = peak_memory(torch.device("cpu"))
    grown = torch.ones(before // 4 + 2**24)  # fills more than the process ever had
    assert peak_memory(torch.device("cpu")) >= max(before, grown.nbytes)
