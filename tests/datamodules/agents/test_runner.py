"""The verifier of the agents, whatever time its checks have; and how an engine is kept busy."""

import asyncio
import gc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules.agents.roles import Part
from katlit.datamodules.agents.runner import Verifier, settled
from katlit.datamodules.agents.voices import Voice, Voices
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.labelling.endpoint_model import EndpointModel
from katlit.engines import ChatEndpoint, EndpointLimits
from katlit.engines.base import SamplingParameters
from katlit.engines.chat_client import ChatClient
from katlit.engines.chat_reply import Reply
from katlit.rewards import Reward, Sample, Verdict


class Late(Reward):
    """Comes to no end for the samples of some tokens, so often."""

    def __init__(self, late: dict[int, int]) -> None:
        self.late = late
        self.judged: list[int] = []

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        return [self._verdict(sample.tokens) for sample in samples]

    def _verdict(self, tokens: int) -> Verdict:
        self.judged.append(tokens)
        self.late[tokens] = self.late.get(tokens, 0) - 1
        return Verdict(None, "late", timed_out=True) if self.late[tokens] >= 0 else Verdict(1.0, "")


@pytest.mark.parametrize(("times", "value"), [(0, 1.0), (1, 1.0), (2, None)])
def test_what_time_ran_out_for_is_judged_once_more(
    times: int, value: float | None, sums: list[Prompt]
) -> None:
    reward = Late({2: times})
    replies: list[Any] = [SimpleNamespace(parsed=None, truncated=False, tokens=n) for n in (1, 2, 3)]

    async def judge(verifier: Verifier) -> list[Verdict]:
        return await asyncio.gather(*(verifier.verify(sums[0], reply) for reply in replies))

    with Verifier(reward) as verifier:
        verdicts = asyncio.run(judge(verifier))
    assert [verdict.value for verdict in verdicts] == [1.0, value, 1.0]
    assert reward.judged == [1, 2, 3] + [2] * (times > 0)


def test_the_next_request_goes_out_before_a_reply_is_read(
    monkeypatch: pytest.MonkeyPatch, sums: list[Prompt]
) -> None:
    done: list[str] = []

    async def attempt(*_: Any) -> Reply:
        done.append("sent")
        return Reply("4", "", [], "stop", 1, 1)

    monkeypatch.setattr(ChatClient, "_attempt", attempt)
    monkeypatch.setattr(EndpointModel, "keep", lambda *_: done.append("kept"))
    monkeypatch.setattr(EndpointModel, "read", lambda *_: done.append("read"))
    endpoint = ChatEndpoint("http://host/v1", None, limits=EndpointLimits(concurrency=1))
    sampling = SamplingParameters()
    model = EndpointModel("m", endpoint, sampling, 8, "{question}", ThinkingSettings(), None)

    async def ask() -> None:
        async with Voices([{Part.SOLVER: Voice(model, sampling)}]) as voices:
            turns = [{"role": "user", "content": "?"}]
            await asyncio.gather(*(voices.ask(sums[0], 0, Part.SOLVER, turns, seed) for seed in range(3)))

    asyncio.run(ask())
    assert done[:3] == ["sent", "kept", "sent"]


def test_the_collector_of_garbage_does_not_look_at_what_was_there_before() -> None:
    assert gc.get_freeze_count() == 0
    with settled():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0
