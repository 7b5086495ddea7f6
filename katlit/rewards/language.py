"""Whether a response keeps to the script of its prompt."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample, Verdict

_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "IDEOGRAPHIC": "CJK"}
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]+")
_VARIABLES = ("LATIN", "GREEK")  # whose letters alone are mathematics


class LanguageReward(Reward):
    """The share of the response's letters that are of its prompt's script, from 0 to 1 (our choice).

    Reasoning that mixes languages comes up in reinforcement learning by itself; DeepSeek-R1 (arXiv
    2501.12948, §2.3.2) rewards the share of words in the target language. We look at scripts, which need no
    model: a letter's is the first word of its Unicode name, Chinese and Japanese signs being one script.
    Judge, thinking and answer count; LaTeX commands, digits and single Latin or Greek letters do not. The
    prompt's script is the commonest of its last message; where that has no letters, the commonest of the
    response.

    Args:
        tolerance: Share of foreign letters that costs nothing, for names and quotations.
    """

    def __init__(self, tolerance: float = 0.05) -> None:
        if not 0 <= tolerance < 1:
            raise UserError(f"tolerance: {tolerance}; give a number from 0 to below 1")
        self.tolerance = tolerance

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        return [self._verdict(sample) for sample in samples]

    def _verdict(self, sample: Sample) -> Verdict:
        written = letters_by_script(sample.text)
        asked = letters_by_script(sample.prompt["messages"][-1]["content"]) or written
        if not written:
            return Verdict(1.0, "no letters")
        script = asked.most_common(1)[0][0]
        share = written[script] / written.total()
        value = 1.0 if share >= 1 - self.tolerance else share
        return Verdict(value, f"{share:.1%} of the letters are {script.title()}")


def letters_by_script(text: str) -> Counter[str]:
    """How many letters of each script a text has."""
    words = _WORD.findall(_COMMAND.sub(" ", unicodedata.normalize("NFKC", text)))
    letters = Counter("".join(word for word in words if len(word) > 1 or _script(word) not in _VARIABLES))
    found: Counter[str] = Counter()
    for letter, count in letters.items():
        found[_script(letter)] += count
    return found


@lru_cache(100_000)
def _script(letter: str) -> str:
    first = unicodedata.name(letter, "UNNAMED").split(" ", 1)[0]
    return _TOGETHER.get(first, first)
