"""Whether a response keeps to the writing system of its prompt."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from katlit.rewards.base import Reward, Sample, Verdict

# Scripts that are written together, and what Unicode's names call them.
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "HANGUL", "FULLWIDTH": "LATIN", "IDEOGRAPHIC": "CJK"}


class LanguageReward(Reward):
    """The share of the response's letters that are in the script of its prompt, from 0 to 1 (our choice).

    Thinking that mixes scripts is hard to read, and comes up in reinforcement learning by itself (DeepSeek-R1,
    arXiv 2501.12948, §2.3.2, which rewards the share of words in the target language). A script is the first
    word of a letter's Unicode name; Chinese and Japanese signs are one. Judge, thinking and answer count, LaTeX
    commands and single letters do not, nor do Greek ones, which are mathematics. The prompt's script is the
    commonest in its last message; a prompt without letters has that of the response.

    Args:
        tolerance: Share of foreign letters that costs nothing, for names and quotations.
    """

    def __init__(self, tolerance: float = 0.05) -> None:
        self.tolerance = tolerance

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        return [self._verdict(sample) for sample in samples]
