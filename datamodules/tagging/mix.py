"""Which tagged queries think, and which model answers a query; pure functions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from random import Random

from katlit.datamodules.tagging.tags import HARDEST, MergedTags, Tags
from katlit.errors import UserError, require
from katlit.text.protocol import Mode

PAPER_THINK_SHARE = 0.348
"""Share of the samples that think in the paper's data (its press article)."""


def choose_modes(
    tags: Sequence[MergedTags],
    think_share_by_domain: Mapping[str, float] | None = None,
    seed: int = 0,
    think_share: float = PAPER_THINK_SHARE,
) -> list[Mode]:
    """Choose the modes so that each domain has its share of think-on; that the votes rank is our choice.

    In each domain those think that most votes want to; of equal ones the harder, then those that the votes
    agree on more, then by lot. Fractions of a query go to the domains with the largest of them, so that the
    whole comes out right as well.

    Args:
        tags: The merged votes on each query.
        think_share_by_domain: Shares of the domains that are not to have the common one.
        seed: Seed of the lots.
        think_share: Share of all other domains.

    Returns:
        The mode of each query, in their order.

    Raises:
        UserError: where a share is none.
    """
    shares = {name.strip().casefold(): share for name, share in (think_share_by_domain or {}).items()}
    for name, share in {**shares, "think_share": think_share}.items():
        require(0 <= share <= 1, f"think share {name!r}", share, "a share from 0 to 1")
    places: dict[str, list[int]] = defaultdict(list)
    for place, merged in enumerate(tags):
        places[merged.tags.domain].append(place)
    exact = {domain: shares.get(domain, think_share) * len(found) for domain, found in places.items()}
    numbers = _rounded(exact)
    lots = [Random(f"{seed}/{place}").random() for place in range(len(tags))]  # noqa: S311 (a lot, no secret)

    def rank(place: int) -> tuple[float, int, float, float]:
        merged = tags[place]
        return (-merged.think, -merged.tags.difficulty, merged.spread, lots[place])

    thinking = {
        place for domain, found in places.items() for place in sorted(found, key=rank)[: numbers[domain]]
    }
    return [Mode.THINK_ON if place in thinking else Mode.THINK_OFF for place in range(len(tags))]


def _rounded(exact: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers with the rounded sum of the exact ones (the method of largest remainders)."""
    numbers = {name: floor(value) for name, value in exact.items()}
    missing = round(sum(exact.values())) - sum(numbers.values())
    by_remainder = sorted(exact, key=lambda name: (numbers[name] - exact[name], name))
    return numbers | {name: numbers[name] + 1 for name in by_remainder[:missing]}


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class Route:
    """Sends queries to a model by their tags.

    Attributes:
        model: Name of the model, as the agents know it.
        domains: Domains that it answers; all if none are given.
        easiest: Least difficulty that it answers.
        hardest: Greatest difficulty that it answers.
    """

    model: str
    domains: list[str] = field(default_factory=list)
    easiest: int = 1
    hardest: int = HARDEST

    def __post_init__(self) -> None:
        """Refuse a range of difficulties that holds none."""
        possible = 1 <= self.easiest <= self.hardest <= HARDEST
        require(possible, "route", f"{self.easiest} to {self.hardest}", f"difficulties from 1 to {HARDEST}")

    def takes(self, tags: Tags) -> bool:
        """Whether a query of these tags goes to the model."""
        in_domain = not self.domains or tags.domain in self.domains
        return in_domain and self.easiest <= tags.difficulty <= self.hardest


def route_of(routes: Sequence[Route], tags: Tags) -> str:
    """Return the model of the first route that takes a query.

    Raises:
        UserError: where none does.
    """
    for route in routes:
        if route.takes(tags):
            return route.model
    raise UserError(
        f"routes: none takes domain {tags.domain!r} of difficulty {tags.difficulty}; end with a route "
        "without domains and difficulties"
    )
