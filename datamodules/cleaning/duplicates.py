"""Questions that stand twice among others, word by word or nearly so."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from katlit.datamodules.cleaning.words import Question, Shingle, common, contained

_SIZE = 2  # words of a shingle
_BANDS, _ROWS = 25, 5  # at a Jaccard index of 0.8 one pair in 20,000 has no band in common
_BUCKET = 64  # questions that share a long template fill one; they are found by what is their own
_PRIME = (1 << 61) - 1


def exact_duplicates(questions: Sequence[Question]) -> dict[int, int]:
    """Find the questions whose words are those of an earlier one.

    Their system turns, tools and calls of tools are the same too, and their references, where both have one.

    Returns:
        The place of the earlier one, by the place of each of them.
    """
    firsts: dict[Hashable, list[int]] = defaultdict(list)
    found = {}
    for place, question in enumerate(questions):
        known = firsts[_words_and_more(question)]
        alike = (before for before in known if _references_agree(question, questions[before]))
        before = next(alike, None)
        if before is None:
            known.append(place)
        else:
            found[place] = before
    return found


def _words_and_more(question: Question) -> Hashable:
    turns = question.prompt["messages"]
    system = [str(turn.get("content")) for turn in turns if turn["role"] == "system"]
    calls = [turn.get("tool_calls") for turn in turns]
    return (question.words, repr((system, calls, question.prompt.get("tools"))))


def near_duplicates(questions: Sequence[Question], threshold: float) -> dict[int, tuple[int, float]]:
    """Find the questions that nearly are an earlier one (our choice).

    Two are, if the Jaccard index of their pairs of words reaches the threshold, also what of these pairs is
    no template's text (`common`) is in the other one's to that share, and their numbers are the same, and
    their references, where both have one. What is compared is found by MinHash.

    Args:
        questions: All of them, without exact duplicates.
        threshold: From above 0 to 1.

    Returns:
        The place of the earlier one and the Jaccard index, by the place of each of them. The earlier one is
        itself none of them.
    """
    shingles = [question.shingles(_SIZE) for question in questions]
    template = common(shingles)
    buckets: dict[Hashable, list[int]] = defaultdict(list)
    found: dict[int, tuple[int, float]] = {}
    for place, question in enumerate(questions):
        numbers = tuple(sorted(question.numbers.items()))
        keys: list[Hashable] = [(numbers, *band) for band in _bands(shingles[place])]
        if own := shingles[place] - template:
            keys += [(numbers, "own", *band) for band in _bands(own)]
        candidates = sorted({before for key in keys for before in buckets.get(key, ())})
        for before in candidates:
            index = _jaccard(shingles[place], shingles[before])
            if (
                index >= threshold
                and _own_parts_agree(shingles[place], shingles[before], template, threshold)
                and _references_agree(question, questions[before])
            ):
                found[place] = (before, index)
                break
        else:
            for key in keys:
                if len(buckets[key]) < _BUCKET:
                    buckets[key].append(place)
    return found


def _own_parts_agree(
    one: frozenset[Shingle], other: frozenset[Shingle], template: frozenset[Shingle], threshold: float
) -> bool:
    own = min(one - template, other - template, key=len)
    return contained(own, one & other) >= threshold


def _references_agree(one: Question, other: Question) -> bool:
    return not one.reference or not other.reference or one.reference == other.reference


def _jaccard(one: frozenset[Shingle], other: frozenset[Shingle]) -> float:
    shared = len(one & other)
    return shared / max(1, len(one) + len(other) - shared)


def _bands(shingles: frozenset[Shingle]) -> Iterator[tuple[int, bytes]]:
    """The MinHash signature in bands (Broder 1997); two texts that share a band are compared."""
    signature = _signature(shingles)
    ends = accumulate([_ROWS] * _BANDS)
    return ((number, signature[end - _ROWS : end].tobytes()) for number, end in enumerate(ends))


def _signature(shingles: frozenset[Shingle]) -> NDArray[np.uint64]:
    hashed = [
        int.from_bytes(hashlib.blake2b("\0".join(shingle).encode(), digest_size=4).digest())
        for shingle in shingles
    ]
    values = np.array(hashed or [0], dtype=np.uint64)[:, None]
    return ((values * _FACTORS + _OFFSETS) % np.uint64(_PRIME)).min(axis=0)


# Products with 32 bits of a hash stay below 2^64.
_random = np.random.default_rng(0)
_FACTORS = _random.integers(1, 1 << 31, _BANDS * _ROWS, dtype=np.uint64)
_OFFSETS = _random.integers(0, 1 << 61, _BANDS * _ROWS, dtype=np.uint64)
