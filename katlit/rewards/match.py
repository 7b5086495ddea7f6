"""Equality with the reference."""

import unicodedata
from collections.abc import Sequence

from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample


class MatchReward(Reward):
    """1 where answer and reference are the same text, else 0.

    Case, width and composition of characters (Unicode NFKC) and the amount of white space do not count: our
    choice.
    """

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """See `Reward`."""
        return [float(_same(sample)) for sample in samples]


def _same(sample: Sample) -> bool:
    reference = _normalised(sample.prompt["reference"])
    if not reference:
        raise UserError(
            f"prompt {sample.prompt['id']!r}: verifier 'match' needs a reference, which is empty; give one "
            "or leave the prompt out"
        )
    return sample.answer is not None and _normalised(sample.answer) == reference


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
