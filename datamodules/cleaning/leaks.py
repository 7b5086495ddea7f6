"""Questions of an evaluation that stand in the training data."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from katlit.datamodules.cleaning.words import Question, Shingle, common

_SIZE = 5  # words of a run
_UNMISTAKABLE = 8  # runs, so a dozen words


def leaks(
    questions: Sequence[Question], evaluation: Sequence[Question], least: float
) -> dict[int, tuple[int, float]]:
    """Find the questions that hold one of an evaluation, maybe among other text (our choice).

    Such a question has at least that share of the runs of five words of the evaluation's question, those
    aside that many questions share (`common`), and all its numbers; no others either, where it is short: for
    `what is 9 - 6 - 4` is no leak of `what is 9 - 6`. Fewer words than a run are found as a whole.

    Args:
        questions: Those to train on.
        evaluation: Those of all evaluation sets.
        least: The least share, above 0.

    Returns:
        The place in `evaluation` of the one that it holds most of, and the share, by the place of each.
    """
    held = [question.shingles(_SIZE) for question in questions]
    template = common(held)
    wanted = [question.shingles(_SIZE) for question in evaluation]
    # Where all of a question is a template's text, it is compared whole.
    own = [shingles - template or shingles for shingles in wanted]
    index: dict[Shingle, list[int]] = defaultdict(list)
    for number, shingles in enumerate(own):
        for shingle in shingles:
            index[shingle].append(number)
    sizes = sorted({len(shingle) for shingle in index} - {_SIZE})
    found = {}
    for place, question in enumerate(questions):
        runs = held[place].union(*(question.shingles(size) for size in sizes))
        shared = Counter(number for run in runs for number in index.get(run, ()))
        shares: dict[int, float] = {
            number: count / len(own[number])
            for number, count in shared.items()
            if _numbers_allow(evaluation[number], question, len(own[number]))
        }
        best = max(shares, key=lambda number: (shares[number], -number), default=None)
        if best is not None and shares[best] >= least:
            found[place] = (best, shares[best])
    return found


def _numbers_allow(evaluated: Question, question: Question, runs: int) -> bool:
    """Whether one question may hold the other, going by their numbers."""
    if runs < _UNMISTAKABLE:
        return evaluated.numbers == question.numbers
    return evaluated.numbers <= question.numbers
