"""The verifier of the agents, whatever time its checks have."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules.agents.runner import Verifier
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
