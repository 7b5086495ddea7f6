"""A question as the words that it is compared by."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

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

Shingle = tuple[str, ...]


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
        words: Words of all its turns but the system's, one after the other.
    """

    prompt: Prompt
    words: tuple[str, ...]

    @classmethod
    def of(cls, prompt: Prompt) -> "Question":
        """Read a prompt."""
        said = [turn for turn in prompt["messages"] if turn["role"] != "system"]
        turns = (str(turn.get("content") or "") for turn in said)
        return cls(prompt, tuple(word for turn in turns for word in words_of(turn)))

    @cached_property
    def numbers(self) -> Counter[str]:
        """Its numbers, and how often each occurs."""
        return Counter(word for word in self.words if word[0].isdigit())

    @cached_property
    def reference(self) -> tuple[str, ...]:
        """The words of its reference; none where it has none."""
        return words_of(self.prompt["reference"])

    def shingles(self, size: int) -> frozenset[Shingle]:
        """All runs of so many words; of a shorter question all its words are one."""
        if not self.words:
            return frozenset()
        size = min(size, len(self.words))
        return frozenset(self.words[start : start + size] for start in range(len(self.words) - size + 1))


def common(questions: Sequence[frozenset[Shingle]]) -> frozenset[Shingle]:
    """What so many questions share that it is a template's text and says nothing of one of them (our choice).

    Args:
        questions: The runs of words of each question.
    """
    counted = Counter(shingle for shingles in questions for shingle in shingles)
    least = max(_COMMON_AT_LEAST, _COMMON_SHARE * len(questions))
    return frozenset(shingle for shingle, number in counted.items() if number >= least)


def contained(part: Iterable[Shingle], whole: frozenset[Shingle]) -> float:
    """The share of `part` that is in `whole`; 1 where there is none."""
    found = [shingle in whole for shingle in part]
    return sum(found) / len(found) if found else 1.0
