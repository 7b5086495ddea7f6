"""Votes on the mode of a query, and what is kept of the voted samples; pure functions (recipe §2 and §4)."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Protocol, TypeVar

from katlit.datamodules.dialects.base import Ballot
from katlit.text.protocol import Mode

DEFAULT_JUDGES = {
    Mode.THINK_ON: "This needs several steps of reasoning.",
    Mode.THINK_OFF: "This can be answered directly.",
}


class _Sized(Protocol):
    @property
    def tokens(self) -> int: ...


SizedT = TypeVar("SizedT", bound=_Sized)

# Slack for differences that are not exact in binary, such as 0.6 - 0.5 against a δ of 0.1.
_ROUNDING = 1e-9


def majority(votes: Sequence[Mode]) -> Mode:
    """Return the mode with more votes; a tie, or no vote at all, is think-off (our choice)."""
    counts = Counter(votes)
    return Mode.THINK_ON if counts[Mode.THINK_ON] > counts[Mode.THINK_OFF] else Mode.THINK_OFF


def pass_rate(correct: Sequence[bool]) -> float:
    """Return the share of correct samples; 0 if there are none."""
    return sum(correct) / len(correct) if correct else 0.0


def vote_by_pass_rate(rate_on: float, rate_off: float, delta: float) -> Mode:
    """Label a query: think-off if `p_on - p_off <= δ`, else think-on (HiPO, as the recipe's §4 has it)."""
    return Mode.THINK_OFF if rate_on - rate_off <= delta + _ROUNDING else Mode.THINK_ON


def shortest(candidates: Sequence[SizedT]) -> SizedT | None:
    """Return the candidate with the fewest tokens, the first of several; None if there is none."""
    return min(candidates, key=lambda candidate: candidate.tokens, default=None)


def explore(mode: Mode, epsilon: float, random: Random) -> Mode:
    """Replace the voted mode by a fair coin's in a share `epsilon` of the calls (HiPO: 1 %)."""
    if random.random() >= epsilon:
        return mode
    return Mode.THINK_ON if random.random() < 0.5 else Mode.THINK_OFF


def subsample_to_share(modes: Sequence[Mode], think_share: float, seed: int) -> list[int]:
    """Choose which samples to keep so that the share of think-on comes closest to `think_share`.

    Only the class that is too large loses samples, at random from `seed`; if either class is empty the share
    is out of reach and all samples stay. The recipe's share is 0.348; reaching it by dropping is our choice.

    Returns:
        Indices to keep, ascending.

    Raises:
        ValueError: if `think_share` is not strictly between 0 and 1.
    """
    if not 0.0 < think_share < 1.0:
        raise ValueError(f"think_share must lie strictly between 0 and 1, got {think_share}")
    on = [index for index, mode in enumerate(modes) if mode is Mode.THINK_ON]
    off = [index for index, mode in enumerate(modes) if mode is Mode.THINK_OFF]
    if not on or not off:
        return list(range(len(modes)))
    random = Random(seed)  # noqa: S311 (a subsample, not a secret)
    if len(on) > think_share * len(modes):
        on = random.sample(on, _closest(len(off) * think_share / (1.0 - think_share), len(on)))
    else:
        off = random.sample(off, _closest(len(on) * (1.0 - think_share) / think_share, len(off)))
    return sorted(on + off)


def _closest(exact: float, available: int) -> int:
    return min(max(round(exact), 1), available)


def agreeing_reason(mode: Mode, ballots: Sequence[Ballot], judges: dict[Mode, str] = DEFAULT_JUDGES) -> str:
    """Return the first reason given for this mode, else the default."""
    return next((ballot.reason for ballot in ballots if ballot.mode is mode and ballot.reason), judges[mode])


def votes_by_mode(ballots: Sequence[Ballot]) -> dict[str, int]:
    """Count the ballots for each mode."""
    return {mode.value: sum(ballot.mode is mode for ballot in ballots) for mode in Mode}
