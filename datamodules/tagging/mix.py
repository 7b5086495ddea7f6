"""Which tagged queries think; pure functions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import floor
from random import Random

from katlit.datamodules.tagging.tags import MergedTags
from katlit.errors import require
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
