from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katlit.datamodules.labelling.votes import (
    explore,
    majority,
    pass_rate,
    shortest,
    subsample_to_share,
    vote_by_pass_rate,
)
from katlit.text.protocol import Mode

ON, OFF = Mode.THINK_ON, Mode.THINK_OFF


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


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        ([], OFF),
        ([ON], ON),
        ([ON, OFF], OFF),
        ([ON, ON, OFF], ON),
        ([OFF, OFF, ON], OFF),
        ([ON, OFF] * 3, OFF),
    ],
)
def test_majority_and_ties(votes: list[Mode], winner: Mode) -> None:
    assert majority(votes) is winner


@given(st.lists(st.sampled_from([ON, OFF]), max_size=200), st.floats(0.05, 0.95), st.integers(0, 9))
def test_subsampling_is_as_close_as_dropping_from_one_class_gets(
    modes: list[Mode], share: float, seed: int
) -> None:
    kept = subsample_to_share(modes, share, seed)
    assert kept == sorted(set(kept)) == subsample_to_share(modes, share, seed)
    on, off = modes.count(ON), modes.count(OFF)
    if not on or not off:
        assert kept == list(range(len(modes)))
        return
    kept_on = sum(modes[index] is ON for index in kept)
    kept_off = len(kept) - kept_on
    assert (kept_on, kept_off) != (0, 0)
    assert kept_on == on or kept_off == off  # only one class loses samples
    # Within one sample of the exact size of the class that was cut.
    if kept_on < on:
        assert abs(kept_on - off * share / (1 - share)) <= 1
    if kept_off < off:
        assert abs(kept_off - on * (1 - share) / share) <= 1


def test_the_recipes_share() -> None:
    modes = [ON] * 500 + [OFF] * 500
    kept = [modes[index] for index in subsample_to_share(modes, 0.348, 0)]
    assert kept.count(OFF) == 500
    assert kept.count(ON) / len(kept) == pytest.approx(0.348, abs=1e-3)


def test_shares_outside_the_open_interval_are_refused() -> None:
    with pytest.raises(ValueError, match="think_share"):
        subsample_to_share([ON], 1.0, 0)
