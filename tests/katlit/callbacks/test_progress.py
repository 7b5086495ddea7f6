import logging
import sys
from shutil import get_terminal_size
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from katlit.callbacks.progress import LineProgress


class StepSRPO:
    pass


def trainer(step: int, max_steps: int = 60) -> Any:
    metrics = {
        "rollout/reward": torch.tensor(0.9123),
        "train/loss": torch.tensor(0.03125),
        "rollout/accuracy": torch.tensor(0.8125),
        "rollout/think_rate": torch.tensor(0.415),
        "rollout/mean_tokens": torch.tensor(63.21),
        "throughput/tokens_per_second": torch.tensor(3021.4),
        "train/learning_rate": torch.tensor(1e-5),
        "train/gradient_norm": torch.tensor(0.51234),
        "throughput/tokens_total": torch.tensor(1203332.0),
        "throughput/kv_cache_use": torch.tensor(0.342),
        "throughput/sequences_in_flight": torch.tensor(211.7),
        "throughput/step_seconds": torch.tensor(9.04),
        "throughput/rollout_seconds": torch.tensor(4.06),
        "throughput/rollout_share": torch.tensor(0.449),
        "train/unknown": torch.tensor(1.0),
    }
    return SimpleNamespace(global_step=step, max_steps=max_steps, callback_metrics=metrics)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    return clock


def run(progress: LineProgress, clock: SimpleNamespace, batches: int, seconds: float) -> None:
    module: Any = StepSRPO()
    progress.on_train_start(trainer(0), module)
    for step in range(1, batches + 1):
        clock.now += seconds
        progress.on_train_batch_end(trainer(step), module, None, None, step - 1)
    progress.on_train_end(trainer(batches), module)


METRICS = (
    "loss 0.0312  reward 0.912  accuracy 0.812  think 0.41  grad 0.512  lr 1.0e-05  tok/s 3,021  "
    "cache 34%  in flight 212  sampling 45%"
)
MORE = "tokens 63.2  trained 1,203,332  seconds 9.0  rollout 4.1"


def test_a_log_gets_a_line_now_and_then(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    run(LineProgress(seconds=10), clock, batches=7, seconds=4.0)
    assert capsys.readouterr().out.splitlines() == [
        f"StepSRPO 3/60  0:00:12, 0:03:48 left  {METRICS}",
        f"StepSRPO 6/60  0:00:24, 0:03:36 left  {METRICS}",
        f"StepSRPO 7/60  0:00:28, 0:03:32 left  {METRICS}",
    ]


def test_a_terminal_gets_one_line_in_place(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run(LineProgress(), clock, batches=2, seconds=4.0)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.endswith("\n")
    assert out.count("\r\x1b[K") == 3
    assert all(len(line.rstrip("\n")) < get_terminal_size().columns for line in out.split("\r\x1b[K"))


def test_without_an_end_no_time_left_is_claimed(clock: SimpleNamespace) -> None:
    progress = LineProgress()
    progress.on_train_start(trainer(40), StepSRPO())
    clock.now += 3
    assert progress.line(trainer(50, max_steps=-1), "StepSRPO") == f"StepSRPO 50  0:00:03  {METRICS}"


def test_a_resumed_run_counts_its_own_steps(clock: SimpleNamespace) -> None:
    progress = LineProgress()
    progress.on_train_start(trainer(40), StepSRPO())
    assert progress.line(trainer(40), "StepSRPO").startswith("StepSRPO 40/60  0:00:00  loss")
    clock.now += 10
    assert progress.line(trainer(50), "StepSRPO").startswith("StepSRPO 50/60  0:00:10, 0:00:10 left")


def test_verbose_lines_have_the_rest(clock: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="katlit")
    progress = LineProgress()
    progress.on_train_start(trainer(0), StepSRPO())
    assert progress.line(trainer(1), "StepSRPO").endswith(f"left  {METRICS}  {MORE}")


def test_other_stages_show_what_they_log(clock: SimpleNamespace) -> None:
    progress, of_stage = LineProgress(), trainer(3)
    progress.on_train_start(trainer(0), StepSRPO())
    for name in list(of_stage.callback_metrics):
        if name.startswith("rollout/") or name.endswith(("_share", "_use", "_flight")):
            del of_stage.callback_metrics[name]
    line = progress.line(of_stage, "StepDistill")
    assert line.endswith("left  loss 0.0312  grad 0.512  lr 1.0e-05  tok/s 3,021")


def test_a_line_stays_readable(clock: SimpleNamespace) -> None:
    progress = LineProgress()
    progress.on_train_start(trainer(0), StepSRPO())
    clock.now += 40000
    assert len(progress.line(trainer(1000, 2000), "StepSRPO")) <= 175


def test_other_ranks_are_silent(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress.disable()
    run(progress, clock, batches=7, seconds=4.0)
    assert capsys.readouterr().out == ""
