"""Rollouts of groups that were sampled anew are judged as strictly as the first ones."""

from pathlib import Path

import pytest
from tinyrollouts import BATCHES, Finishing, train

from katlit.errors import UserError
from katlit.rewards import CompositeReward, Reward, Sample, Verdict


class Breaking(Reward):
    """Judges 8 samples, all alike, and no later one."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        return [self._verdict() for _ in samples]

    def _verdict(self) -> Verdict:
        self.seen += 1
        return Verdict(1.0, "") if self.seen <= 8 else Verdict(None, "broken")


def test_what_a_later_round_could_not_judge_counts(tmp_path: Path) -> None:
    def run(share: float) -> float:
        reward = CompositeReward({"accuracy": Breaking()}, {"accuracy": 1.0})
        watch, _, _ = train(
            tmp_path / str(share), Finishing(), BATCHES[:1], reward=reward, samples=4,
            on_flat_groups="resample", extra_rounds=1, max_unjudged_share=share,
        )  # fmt: skip
        return watch.logged[0]["rollout/unjudged"]

    assert run(0.5) == 0.5
    with pytest.raises(UserError, match=r"8 of 16 rollouts of step 0 .*; the first: broken"):
        run(0.4)
