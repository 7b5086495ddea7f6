"""Numbers that nobody could write out, such as 10^(9^9)."""

import time

import pytest

from katlit.rewards import MathReward
from tests.katlit.rewards.math.test_math import sample

TOWER = "10^{9^9}"
LONG_NUMBERS = [  # reference, answer, verdict
    ("5", TOWER, 0),
    ("5", r"\boxed{9^{9^{9^{9}}}}", 0),
    ("5", "10^{-9^9}", 0),
    ("5", "((10^{9999})^{9999})^{9999}", 0),
    ("5", r"\left(\frac{1}{2}\right)^{3\cdot 10^{9}}+1", 0),
    ("5", "1.5^{9^9}", 0),
    ("5", "(1+x)^{10^6}", 0),
    ("5", "9999999!", 0),
    ("5", r"i \cdot 9^{9^9}", 0),
    ("5", "x = 9^{9^9}", 0),
    (r"\{5, 6\}", r"\{5, 9^{9^9}\}", 0),
    ("3.14159", TOWER, 0),
    (TOWER, "5", 0),
    (TOWER, "10^{9^{9}}", 1),
    (TOWER, "10^{387420489}", 1),
    (f"3 x + {TOWER}", f"{TOWER} + 3 x", None),
    (TOWER, f"{TOWER} + 1", None),
    ("2^{10}", "1024", 1),
    ("4^{1000}", "2^{2000}", 1),
]


@pytest.mark.parametrize(("reference", "answer", "value"), LONG_NUMBERS)
def test_a_number_that_is_too_long_is_judged_without_being_written_out(
    reward: MathReward, reference: str, answer: str, value: float | None
) -> None:
    reward([sample("x", "2x")])  # the workers are up
    start = time.monotonic()
    (verdict,) = reward([sample(reference, answer)])
    assert (verdict.value, verdict.timed_out) == (value, False)
    assert time.monotonic() - start < 10  # of the 30 that the fixture gives
