from dataclasses import dataclass
from random import Random

import pytest

from katlit.datamodules.labelling.votes import explore, pass_rate, shortest, vote_by_pass_rate
from katlit.text.protocol import Mode


@dataclass(frozen=True)
class Reply:
    name: str
    tokens: int


def test_pass_rate() -> None:
    assert pass_rate([]) == 0.0
    assert pass_rate([True, False, False, False]) == 0.25


@pytest.mark.parametrize(
    ("on", "off", "delta", "mode"),
    [
        (0.0, 0.0, 0.0, "off"), (1.0, 1.0, 0.0, "off"), (0.75, 0.5, 0.0, "on"), (0.5, 0.75, 0.0, "off"),
        (0.75, 0.5, 0.25, "off"), (0.6, 0.5, 0.1, "off"), (1.0, 0.5, 0.25, "on"),
    ],
)  # fmt: skip
def test_vote_and_its_ties(on: float, off: float, delta: float, mode: str) -> None:
    assert vote_by_pass_rate(on, off, delta) == mode


def test_shortest_is_the_first_of_several() -> None:
    assert shortest([]) is None
    assert shortest([Reply("a", 3), Reply("b", 2), Reply("c", 2)]) == Reply("b", 2)


def test_exploration_is_a_fair_coin_in_a_share_of_the_calls() -> None:
    random = Random(0)
    drawn = [explore(Mode.THINK_OFF, 0.5, random) for _ in range(4000)]
    assert drawn.count(Mode.THINK_ON) / 4000 == pytest.approx(0.25, abs=0.03)
    assert all(explore(mode, 0.0, random) is mode for mode in Mode for _ in range(50))
