"""Which regime a query gets, from votes of a tagger; pure functions (recipe §2)."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from katlit.text.protocol import Mode


def majority(votes: Sequence[Mode]) -> Mode:
    """Return the mode with more votes; a tie, or no vote at all, is think-off (our choice)."""
    counts = Counter(votes)
    return Mode.THINK_ON if counts[Mode.THINK_ON] > counts[Mode.THINK_OFF] else Mode.THINK_OFF


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
