import pytest
from hypothesis import given
from hypothesis import strategies as st

from katlit.datamodules.labelling.tagging import majority, subsample_to_share
from katlit.text.protocol import Mode

ON, OFF = Mode.THINK_ON, Mode.THINK_OFF


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
