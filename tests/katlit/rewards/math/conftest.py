"""A `MathReward` whose workers start once for all tests of this folder."""

from collections.abc import Iterator

import pytest

from katlit.rewards import MathReward


@pytest.fixture(scope="package")
def reward() -> Iterator[MathReward]:
    reward = MathReward(timeout=30, workers=2)  # the machine may be busy
    yield reward
    reward.close()
