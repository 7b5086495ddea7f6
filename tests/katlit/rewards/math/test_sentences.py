"""What plain sentences state, and that a wrong last number is never taken for the right one."""

import itertools

import pytest

from katlit.rewards.math.answers import final_expression
from katlit.rewards.math.numerals import read_numeral
from katlit.rewards.math.sentences import stated_number
from katlit.rewards.math.units import split_unit

STATEMENTS = [
    "The answer is {}.", "The final answer is **{}**.", "Answer: {}", "He has {} balloons.", "**{}**",
    "${}$", "He still has {}.", "\\boxed{{{}}}", "The sum is $\\boxed{{{}}}$.", "#### {}", "{}", "x = {}",
    "So the total is {}.", "Therefore, $x = {}$.", "It is {} km long.", "{} balloons", "\\[ {} \\]",
    "The total cost is ${}.", "She sold 6 + 9 = {} clips.", "Thus we get {}.", "In total, {} were sold.",
    "Hence {} is the answer.", "Sorry, the answer is {}.", "Wait, it should be {}.", "Actually, {}.",
    "The result is {}", "The final answer is ${}$. I hope it is correct.",
    "The answer is {} because it is not 7.",
]  # fmt: skip
JOINTS = [" ", "\n", "\n\nWait: ", "\nSo ", " Sorry. "]


def stated(answer: str) -> float | None:
    """The number that an answer gives."""
    value = split_unit(final_expression(answer, 2000).rpartition("=")[2].strip())[0]
    numeral = read_numeral(value)
    return float(numeral.value) if numeral else None


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_gives_its_number(statement: str) -> None:
    assert stated(statement.format(15)) == 15
    assert stated(statement.format("1,500")) == 1500
    assert stated("48 clips in April, and 24 in May.\n\n" + statement.format(15)) == 15


@pytest.mark.parametrize("last", STATEMENTS)
def test_an_earlier_number_is_never_taken_for_the_last_one(last: str) -> None:
    joints = itertools.cycle(JOINTS)
    texts = [first.format(12) + next(joints) + last.format(15) for first in STATEMENTS]
    assert [text for text in texts if stated(text) == 12] == []


@pytest.mark.parametrize(
    ("sentence", "number"),
    [
        ("He has 12 of 15.", None),
        ("He has 12 balloons left.", "12 balloons left"),
        ("He ran 5 km and then 3 more.", None),
        ("It costs $1,000.99 in total.", "$1,000.99"),
        ("She sold 48 + 24 = 72 clips in 2 months.", None),
        ("It takes 120/24 = 5 hours to read 120 pages.", "5 hours to read"),
        ("He has more than 12.", None),
        ("He hasn't got 12.", None),
        ("She has 3 and he has 12.", None),
        ("Each has 3, so the total is 12.", "12"),
        ("The length is 12x.", None),
    ],
)
def test_several_numbers_state_one_or_none(sentence: str, number: str | None) -> None:
    assert stated_number(sentence) == number


def test_a_run_of_spaces_takes_no_time() -> None:
    assert read_numeral("1" + " " * 10**5 + "x") is None
