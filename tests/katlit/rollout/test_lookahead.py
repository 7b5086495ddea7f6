"""What a checkpoint keeps of rollouts that were sampled ahead."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from katlit.engines import HFEngine, SamplingParameters
from katlit.engines.base import Completion
from katlit.errors import UserError
from katlit.rollout.lookahead import Ahead
from katlit.rollout.requests import Request, complete

SAMPLING = SamplingParameters()
REQUESTS = [
    Request(0, "on", [1, 2, 3], 0, 5), Request(0, "auto", [1], 1, 6), Request(2, "off", [4, 4], 0, 7),
]  # fmt: skip


class Scripted(HFEngine):
    samples_beside_training: ClassVar[bool] = True

    def generate(self, prompts: Any, sampling: Any, seeds: Any = None) -> list[Completion]:
        """As many tokens as the prompt has, and log-probabilities that float32 would not keep."""
        reasons = ("stop", "length", "stop")
        return [
            Completion([seed] * len(prompt), [-1.0 / (3 + seed + i) for i in range(len(prompt))], reason)
            for prompt, seed, reason in zip(prompts, seeds, reasons, strict=True)
        ]


class Failing(Scripted):
    def generate(self, *_: Any) -> list[Completion]:
        raise UserError("vLLM server: gone")


def test_what_was_in_flight_comes_back_whole(tmp_path: Path) -> None:
    engine = Scripted()
    first, second = Ahead(engine), Ahead(engine)
    first.start(["0", "p1", "p2"], REQUESTS, SAMPLING, step=7)
    torch.save(first.state(), tmp_path / "state.ckpt")
    second.restore(torch.load(tmp_path / "state.ckpt", weights_only=True))
    ours, theirs = (ahead.take(["0", "p1", "p2"]) for ahead in (second, first))
    assert ours.sampled == theirs.sampled == complete(engine, REQUESTS, SAMPLING)
    assert ours.step == theirs.step == 7
    assert ours.hidden_seconds == 0
    assert first.take(["0", "p1", "p2"]) is None  # handed out once
    first.close()


def test_no_prompt_that_fits_is_kept_too() -> None:
    first, second = Ahead(Scripted()), Ahead(Scripted())
    first.start(["1", "p1"], [], SAMPLING, step=2)
    second.restore(first.state())
    assert second.take(["1", "p1"]).sampled == []
    first.close()


def test_a_failure_is_not_kept_and_told_when_the_rollouts_are_due() -> None:
    ahead = Ahead(Failing())
    assert ahead.state() is None
    ahead.start(["0", "p1"], REQUESTS, SAMPLING, step=0)
    ahead.finish()
    assert ahead.state() is None
    with pytest.raises(UserError, match="vLLM server: gone"):
        ahead.take(["0", "p1"])
    ahead.close()


def test_other_prompts_do_not_get_them(caplog: pytest.LogCaptureFixture) -> None:
    ahead = Ahead(Scripted())
    ahead.start(["0", "p1"], REQUESTS, SAMPLING, step=0)
    assert ahead.take(["1", "p1"]) is None
    assert "answer other prompts" in caplog.text
    assert ahead.take(["0", "p1"]) is None
    ahead.close()
