"""Majority vote over a model's own samples; pure functions (recipe §4)."""

from collections.abc import Sequence
from random import Random
from typing import Protocol, TypeVar

from katlit.text.protocol import Mode


class _Sized(Protocol):
    @property
    def tokens(self) -> int: ...


SizedT = TypeVar("SizedT", bound=_Sized)

# Slack for differences that are not exact in binary, such as 0.6 - 0.5 against a δ of 0.1.
_ROUNDING = 1e-9


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
