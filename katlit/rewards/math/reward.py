"""Equality of mathematical answers."""

import logging
import re
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample, Verdict
from katlit.rewards.json_answers import plain_answer
from katlit.rewards.match import empty_reference, reference_of
from katlit.rewards.math.answers import final_expression, has_box, reference_expression
from katlit.rewards.math.lists import equal_lists, split_list
from katlit.rewards.math.numerals import Numeral, equal, has_enormous_exponent, read_numeral
from katlit.rewards.math.sentences import is_prose
from katlit.rewards.math.spelling import as_text, readable
from katlit.rewards.math.units import split_unit
from katlit.rewards.math.words import choice, judgement, stated_words, unmarked, words
from katlit.rewards.math.workers import StartError, WorkerError, WorkerPool
from katlit.text.printable import short_line

logger = logging.getLogger(__name__)

_SCRIPT = Path(__file__).with_name("math_worker.py")
_BASE = re.compile(r"([0-9A-F]+)\s*_\s*\{?(\d{1,2})\}?")
_CLOCK = re.compile(r"\d{1,2}(?::\d{2})+")
_TWO_NUMBERS = re.compile(r"\d\s+\d")
_TOWER = re.compile(r"[\d)]\s*\^\s*\{(?:\\(?:cdot|times|left)|[^{}A-Za-z\\])*\^\s*[{(]*\s*\d")  # of numbers


class MathReward(Reward):
    r"""1 where the answer means what the reference means, else 0; by numbers, then by math-verify.

    The answer is what `katlit.rewards.math.answers` finds: what is boxed, else what follows "####" or "the
    answer is", else what the last sentence states, a formula or a number. A sentence with several numbers
    states one of them only where a sum or a verb leads to it, "12 of 15" is neither; and where a response
    gives two different numbers as its answer, both are wrong. Of a JSON object it is the value of "answer"
    (`plain_answer`).

    Integers, decimals, fractions, mixed numbers and percentages, alone or in lists, are compared exactly
    (`numerals`). Everything else, algebra, roots, intervals, sets, matrices, relations, goes to math-verify
    and sympy in worker processes, which read LaTeX and evaluate no Python; an answer that takes longer, or
    more memory, than they are given is unjudged, neither right nor wrong. A number of more than 100,000
    digits, such as 10^{9^9}, is never written out: it is wrong, unless the reference is one too; where one is
    only part of an answer, such as 30000!/29999!, the answer is unjudged.

    Our choices, where usage differs:
    - A decimal of six significant digits stands for what it is rounded from: 0.333333 is 1/3, 0.33 is not.
    - A percent sign is a unit: 50% is 50, and 1/2. A unit may be left out, but not be another one, and is not
      converted: 5 is 5 cm, 5 m is not, nor is 0.05 m. So are the words after a number, 12 balloons; a letter
      after one is a variable, except for a unit's symbol after a space: 5 N is 5, 3t is not 3.
    - "At least 12", "more than 12" and "not 12" are not 12.
    - The letter of a choice counts, its text does not: "C. 12 apples" is C.
    - Words are compared as text, letters without case; a product of three letters or more without a sign is
      taken for a word.
    - `x = 5` is 5, and so is `2x = 5`, for a reference without an equals sign.
    - A list without brackets is a set: its order does not count. In `(1, 2)` it does.
    - Digits with single commas between groups of three are one number: 1,234. A decimal point is a point.
    - An inequality is the interval that it describes, and so is `\{x | x > 1\}`; `\pm` is two answers.
    - A reference in prose, or one that math-verify cannot read, is compared as text, without case, layout and
      punctuation; how many there are is logged.

    Known errors of math-verify that remain: an element of a set counts as equal where it agrees to six
    decimals; a domain is not looked at, (x²-1)/(x-1) is x+1.

    Args:
        timeout: Seconds that one comparison may take.
        workers: Processes that compare; they start when first needed. Verdicts do not depend on it.
        memory_mib: Address space of a worker.
        max_characters: A longer expression is wrong, unless it is the reference's very text.
    """

    def __init__(
        self, timeout: float = 3.0, workers: int = 1, memory_mib: int = 1024, max_characters: int = 2000
    ) -> None:
        if timeout <= 0 or workers < 1 or max_characters < 1:
            raise UserError(
                f"MathReward: timeout {timeout}, workers {workers}, max_characters {max_characters}; give "
                "positive numbers"
            )
        self.timeout = timeout
        self.workers = workers
        self.memory_mib = memory_mib
        self.max_characters = max_characters
        self._unreadable: set[str] = set()

    @cached_property
    def _pool(self) -> WorkerPool:
        arguments = [str(self.memory_mib * 2**20), str(self.timeout)]
        return WorkerPool(_SCRIPT, arguments, self.workers, self.timeout)

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a copy starts workers of its own."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy with the same settings."""
        self.__dict__ |= state
        self._unreadable = set()

    def reference_problem(self, prompt: Prompt) -> str | None:
        """See `Reward`."""
        if reference_expression(prompt["reference"], self.max_characters):
            return None
        return empty_reference(prompt) or f"its reference holds no answer: {prompt['reference']!r:.80}"

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        first = [self._read(sample) for sample in samples]
        waiting = [index for index, one in enumerate(first) if not isinstance(one, Verdict)]
        requests = [one for one in first if not isinstance(one, Verdict)]
        found = dict(zip(waiting, self._compared(requests) if requests else (), strict=True))
        return [one if isinstance(one, Verdict) else found[index] for index, one in enumerate(first)]

    def _compared(self, requests: Sequence[dict[str, str]]) -> list[Verdict]:
        try:
            replies = self._pool.ask_all(requests)
        except StartError as error:
            raise UserError(
                f"MathReward: its worker process does not start ({error}); it runs {_SCRIPT} with "
                f"{sys.executable}, an empty environment and memory_mib {self.memory_mib}"
            ) from error

        return [self._verdict(*pair) for pair in zip(requests, replies, strict=True)]

    def _verdict(
        self, request: dict[str, str], reply: dict[str, Any] | TimeoutError | WorkerError
    ) -> Verdict:
        if isinstance(reply, TimeoutError):
            return Verdict(None, "MathReward: not compared in time", timed_out=True)
        if isinstance(reply, WorkerError):
            return Verdict(None, f"MathReward: {reply}")
        if reply.get("unreadable"):
            self._count_unreadable(request["reference"])
            return _told(as_text(request["reference"]) == as_text(request["answer"]), "text")
        if reply["equal"] is None:
            return Verdict(None, f"MathReward: {reply['reason']}")
        return Verdict(float(reply["equal"]), reply["reason"])

    def _count_unreadable(self, reference: str) -> None:
        """Say how many references are compared as text only, at the first, the tenth, the hundredth one."""
        if reference in self._unreadable:
            return
        self._unreadable.add(reference)
        number = len(self._unreadable)
        if str(number).strip("0") == "1":
            logger.warning(
                "MathReward: %d reference(s) so far cannot be read as mathematics, such as %r; an answer to "
                "them is right where its text is the same",
                number,
                short_line(reference, 80),
            )

    def close(self) -> None:
        """Kill the workers."""
        if "_pool" in self.__dict__:
            self._pool.close()

    def _read(self, sample: Sample) -> Verdict | dict[str, str]:
        """A verdict, where none of sympy is needed; else what to ask a worker."""
        reference = reference_expression(reference_of(sample), self.max_characters)
        given = plain_answer(sample)
        if given is None:
            return Verdict(0.0, "no answer")
        answer = final_expression(given, self.max_characters)
        if answer == reference and answer:
            return Verdict(1.0, "the reference's text")
        text = answer if has_box(given) else given[-self.max_characters :]
        if told := _compare_words(reference, answer, text):
            return told
        if is_prose(unmarked(split_unit(reference)[0])):
            self._count_unreadable(reference)
            return _told(as_text(reference) in {as_text(answer), as_text(text)}, "text")
        if not answer:
            return Verdict(0.0, "no answer, or more than one")
        if len(answer) > self.max_characters:
            return Verdict(0.0, f"longer than {self.max_characters} characters")
        return _compare(reference, answer)


def _compare_words(reference: str, answer: str, text: str) -> Verdict | None:
    """The verdict on a reference that is a letter or words; None where it is an expression."""
    labelled = choice(reference)
    expected = labelled or words(reference)
    if expected is not None and len(expected) == 1:
        letter = words(answer)
        if letter is None or len(letter) > 1:
            letter = choice(answer) or choice(text)
        return _told(expected in {letter, answer.casefold()}, "choice")
    if expected is not None:
        return _told(expected in stated_words(answer) | {answer.casefold(), judgement(text)}, "words")
    return None


def _compare(reference: str, answer: str) -> Verdict | dict[str, str]:
    (reference, unit), (answer, own) = split_unit(reference), split_unit(answer)
    if unit and own and not unit.agrees(own):
        return Verdict(0.0, f"{own} for {unit}")
    (reference, base), (answer, own_base) = _split_base(reference), _split_base(answer)
    if own_base and own_base != (base or "10"):
        return Verdict(0.0, f"base {own_base} for {base or 10}")
    if _CLOCK.fullmatch(reference):
        return _told(reference.lstrip("0") == answer.lstrip("0"), "time")
    number, given = read_numeral(reference), read_numeral(answer)
    if number and given:
        return _told(equal(number, given), "number")
    if not (number or given):
        listed, listed_too = split_list(reference), split_list(answer)
        same = equal_lists(listed, listed_too) if listed and listed_too else None
        if same is not None:
            return _told(same, "list")
    if _spelled(reference) == _spelled(answer):
        return _told(same=True, kind="text")
    return _request(readable(reference), readable(answer), number, given)


def _spelled(expression: str) -> str:
    return " ".join(unmarked(expression).split()).removesuffix(".")


def _told(same: bool, kind: str) -> Verdict:
    return Verdict(1.0, f"the same {kind}") if same else Verdict(0.0, f"another {kind}")


def _split_base(expression: str) -> tuple[str, str | None]:
    match = _BASE.fullmatch(expression)
    return (match[1], match[2]) if match else (expression, None)


def _request(
    reference: str, answer: str, number: Numeral | None, given: Numeral | None
) -> Verdict | dict[str, str]:
    """What to ask a worker."""
    expected = has_enormous_exponent(reference) or _TOWER.search(reference)
    if has_enormous_exponent(answer) and not expected:
        return Verdict(0.0, "an exponent of more than four digits")
    if _TWO_NUMBERS.search(answer) and not given:
        return Verdict(0.0, "two numbers with nothing between them")  # to sympy "5 6" is 11
    rounded, other = (number, answer) if number else (given, reference)
    if rounded and rounded.rounding and not rounded.percent:
        low, high = rounded.value - rounded.rounding, rounded.value + rounded.rounding
        return {"text": other, "low": str(low), "high": str(high)}
    return {"reference": reference, "answer": answer}
