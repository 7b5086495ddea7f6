"""Means over what several ranks have, kept as sums and numbers until all are added up."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Tally(NamedTuple):
    """A part of a mean."""

    total: float
    number: int


def tally(values: Iterable[float]) -> Tally:
    """Sum and count of some values."""
    own = list(values)
    return Tally(float(sum(own)), len(own))


def means(parts: Sequence[Mapping[str, Tally]]) -> dict[str, float]:
    """Means over all parts, which have the same names; 0 of nothing."""
    return {
        name: sum(part[name].total for part in parts) / max(sum(part[name].number for part in parts), 1)
        for name in parts[0]
    }


def known_means(parts: Sequence[Mapping[str, Tally]]) -> dict[str, float]:
    """Means over all parts, as `means`; none of nothing."""
    known = {name for part in parts for name, own in part.items() if own.number}
    return {name: value for name, value in means(parts).items() if name in known}
