"""A question as the words that it is compared by."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from katlit.batch import Prompt

# Numbers with their decimals, characters of scripts without spaces, words, and each sign but the light ones:
# `3 + 5` and `3 - 5` are two questions, `3 + 5?` and `3 + 5` are one.
_TOKEN = re.compile(
    r"\d+(?:\.\d+)?|\.\d+|[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]+|!=|(?<=[\w)])!(?=\s*[-+*/^=)])|(?<=\w)'(?=\()"
    r"|(?<=\d):(?=\d)|[^\w\s.,;:!?\"'`´‘’“”„«»…¡¿。、؟،؛「」$]"
)
# What Unicode's normal form would glue to the number before it: 10² would be 102, 2½ would be 21⁄2.
_RAISED, _FRACTION = re.compile("[²³¹⁰-ⁿ]+"), re.compile("[¼-¾⅐-⅞]")
_DASH = re.compile("[\u2010-\u2015\u2212]")
_IN_NUMBERS = re.compile(r"(?<=\d),(?=\d{3})")
_COMMON_SHARE = 0.01  # of all questions
_COMMON_AT_LEAST = 10

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of a hash is lost

Runs = NDArray[np.uint64]
"""Runs of words as hashes of 64 bits, ascending, each once; the words would take ten times that."""


def words_of(text: str) -> tuple[str, ...]:
    """The words, numbers and signs of a text, whatever its case, white space and punctuation are."""
    apart = _FRACTION.sub(r" \g<0>", _RAISED.sub(r"^\g<0>", text))
    plain = _DASH.sub("-", unicodedata.normalize("NFKC", apart)).casefold()
    return tuple(_TOKEN.findall(_IN_NUMBERS.sub("", plain)))


@dataclass(frozen=True)
class Question:
    """A prompt as it is compared with others.

    Attributes:
        prompt: The prompt.
        text: Words of all its turns but the system's, one after the other, with spaces between.
    """

    prompt: Prompt
    text: str

    @classmethod
    def of(cls, prompt: Prompt) -> "Question":
        """Read a prompt."""
        said = [turn for turn in prompt["messages"] if turn["role"] != "system"]
        turns = (str(turn.get("content") or "") for turn in said)
        return cls(prompt, " ".join(word for turn in turns for word in words_of(turn)))

    @property
    def words(self) -> tuple[str, ...]:
        """All its words."""
        return tuple(self.text.split())

    @property
    def numbers(self) -> Counter[str]:
        """Its numbers, and how often each occurs."""
        return Counter(word for word in self.words if word[0].isdigit())

    @property
    def reference(self) -> tuple[str, ...]:
        """The words of its reference; none where it has none."""
        return words_of(self.prompt["reference"])

    def shingles(self, size: int) -> Runs:
        """All runs of so many words; of a shorter question all its words are one."""
        hashed = np.fromiter(map(hash_of, self.words), np.uint64)
        size = min(size, len(hashed))
        ends = len(hashed) - size + 1 if size else 0
        combined = np.zeros(ends, np.uint64)
        for start in range(size):
            combined = combined * _FACTOR + hashed[start : start + ends]
        return np.unique((combined ^ (combined >> np.uint64(32))) * _FACTOR)


@lru_cache(1 << 17)
def hash_of(text: str) -> int:
    """A text as 64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def common(questions: Sequence[Runs]) -> Runs:
    """What so many questions share that it is a template's text and says nothing of one of them (our choice).

    Args:
        questions: The runs of words of each question.
    """
    if not questions:
        return np.zeros(0, np.uint64)
    runs, counted = np.unique(np.concatenate(questions), return_counts=True)
    return runs[counted >= max(_COMMON_AT_LEAST, _COMMON_SHARE * len(questions))]


def within(runs: Runs, others: Runs) -> NDArray[np.bool_]:
    """Which of some runs are among others."""
    if not len(others):
        return np.zeros(len(runs), np.bool_)
    places = np.searchsorted(others, runs)
    return np.equal(others[np.minimum(places, len(others) - 1)], runs)
