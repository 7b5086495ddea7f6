"""Questions of an evaluation that stand in the training data."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from katlit.datamodules.cleaning.words import Question, Runs, common, within

_SIZE = 5  # words of a run
_UNMISTAKABLE = 8  # runs, so a dozen words


def leaks(
    questions: Sequence[Question], evaluation: Sequence[Question], least: float
) -> dict[int, tuple[int, float]]:
    """Find the questions that hold one of an evaluation, maybe among other text (our choice).

    Such a question has at least that share of the runs of five words of the evaluation's question, those
    aside that many questions share (`common`), and all its numbers; no others either, where it is short: for
    `what is 9 - 6 - 4` is no leak of `what is 9 - 6`. One of fewer words than a run is found only by itself.

    Args:
        questions: Those to train on.
        evaluation: Those of all evaluation sets.
        least: The least share, above 0.

    Returns:
        The place in `evaluation` of the one that it holds most of, and the share, by the place of each.
    """
    if not evaluation:
        return {}
    held = [question.shingles(_SIZE) for question in questions]
    wanted = [question.shingles(_SIZE) for question in evaluation]
    template = np.union1d(common(held), common(wanted))
    short: dict[str, int] = {}
    # Where all of a question is a template's text, all of it counts.
    own: list[Runs] = []
    index: dict[int, list[int]] = defaultdict(list)
    for number, question in enumerate(evaluation):
        if len(question.words) < _SIZE:
            short.setdefault(question.text, number)
        untold = wanted[number][~within(wanted[number], template)]
        own.append(untold if len(untold) else wanted[number])
        for run in own[number].tolist() if len(question.words) >= _SIZE else ():
            index[run].append(number)
    numbers_of = [question.numbers for question in evaluation]
    indexed = np.sort(np.fromiter(index, np.uint64))
    found = {}
    for place, question in enumerate(questions):
        if question.text and question.text in short:
            found[place] = (short[question.text], 1.0)
            continue
        known = held[place][within(held[place], indexed)].tolist()
        numbers = question.numbers
        shared = Counter(number for run in known for number in index[run])
        shares: dict[int, float] = {
            number: count / len(own[number])
            for number, count in shared.items()
            if _numbers_allow(numbers_of[number], numbers, len(own[number]))
        }
        best = max(shares, key=lambda number: (shares[number], -number), default=None)
        if best is not None and shares[best] >= least:
            found[place] = (best, shares[best])
    return found


def _numbers_allow(evaluated: Counter[str], numbers: Counter[str], runs: int) -> bool:
    """Whether one question may hold the other of so many runs, going by their numbers."""
    if runs < _UNMISTAKABLE:
        return evaluated == numbers
    return evaluated <= numbers
