"""Questions that stand twice among others, word by word or nearly so."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from katlit.datamodules.cleaning.words import Question, Runs, common, hash_of, within

_SIZE = 2  # words of a shingle
_BANDS, _ROWS = 36, 5  # at a Jaccard index of 0.75 one pair in 17,000 has no band in common
_BUCKET = 64  # questions that share a long template fill one; they are found by what is their own
_FACTOR = np.uint64(0xD6E8FEB86659FD93)


def exact_duplicates(questions: Sequence[Question]) -> dict[int, int]:
    """Find the questions whose words are those of an earlier one.

    Their system turns, tools and calls of tools are the same too, and their references, where both have one.

    Returns:
        The place of the earlier one, by the place of each of them.
    """
    firsts: dict[bytes, list[int]] = defaultdict(list)
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


def _words_and_more(question: Question) -> bytes:
    turns = question.prompt["messages"]
    system = [str(turn.get("content")) for turn in turns if turn["role"] == "system"]
    calls = [turn.get("tool_calls") for turn in turns]
    compared = repr((question.text, system, calls, question.prompt.get("tools")))
    return hashlib.blake2b(compared.encode("utf-8", "backslashreplace"), digest_size=16).digest()


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
    keys = [_keys(question, runs, template) for question, runs in zip(questions, shingles, strict=True)]
    repeated = _repeated(keys)
    buckets: dict[int, list[int]] = defaultdict(list)
    found: dict[int, tuple[int, float]] = {}
    for place, question in enumerate(questions):
        own_keys = keys[place][within(keys[place], repeated)].tolist()
        candidates = sorted({before for key in own_keys for before in buckets.get(key, ())})
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
            for key in own_keys:
                if len(buckets[key]) < _BUCKET:
                    buckets[key].append(place)
    return found


def _own_parts_agree(one: Runs, other: Runs, template: Runs, threshold: float) -> bool:
    own = min((runs[~within(runs, template)] for runs in (one, other)), key=len)
    both = within(own, one) & within(own, other)
    return not len(own) or both.sum() / len(own) >= threshold


def _references_agree(one: Question, other: Question) -> bool:
    return not one.reference or not other.reference or one.reference == other.reference


def _jaccard(one: Runs, other: Runs) -> float:
    shared = int(within(one, other).sum())
    return shared / max(1, len(one) + len(other) - shared)


def _repeated(keys: Sequence[Runs]) -> Runs:
    """The keys that are there more than once; of all others no bucket is kept."""
    if not keys:
        return np.zeros(0, np.uint64)
    ordered = np.sort(np.concatenate(keys))
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _keys(question: Question, runs: Runs, template: Runs) -> Runs:
    """The bands of a question's signature, and of its own part's; two that share one are compared."""
    numbers = np.uint64(hash_of(repr(sorted(question.numbers.items()))))
    own = runs[~within(runs, template)]
    parts = [runs, own] if 0 < len(own) < len(runs) else [runs]
    return np.unique(np.concatenate([_bands(part) for part in parts]) ^ numbers)


def _bands(runs: Runs) -> Runs:
    """The MinHash signature in bands (Broder 1997)."""
    values = (runs if len(runs) else np.zeros(1, np.uint64))[:, None]
    signature = (values * _FACTORS).min(axis=0)
    bands = np.arange(_BANDS, dtype=np.uint64)
    for row in signature.reshape(_BANDS, _ROWS).T:
        bands = bands * _FACTOR + row
    return bands


# Odd, so that each permutes the hashes; products are modulo 2^64.
_random = np.random.default_rng(0)
_FACTORS = _random.integers(0, 1 << 63, _BANDS * _ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
