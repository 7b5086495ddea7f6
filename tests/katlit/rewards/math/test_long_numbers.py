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
    ("5", r"3\cdot 10^{9^{9^9}}-2", 0),
    ("5", r"\sqrt{2}^{9^9}", 0),
    ("30000", r"\frac{30000!}{29999!}", None),
    ("100000", r"\frac{100000!}{99999!}", None),
    ("387420489", r"\log_{10}(10^{9^9})", None),
    ("1", f"{TOWER}-{TOWER}+1", None),
    ("0", rf"0 \cdot {TOWER}", None),
    ("5", f"({TOWER})^{{1/9^9}}", None),
    ("10", r"(10^{9^9})^{\frac{1}{387420489}}", None),
    (r"\frac{30000!}{29999!}", "30000", None),
    (r"\sqrt[10000]{5}", r"\left(\sqrt[1000000]{5}\right)^{100}", 1),
    (r"\sqrt[1000000]{5}", r"5^{\frac{1}{1000000}}", 1),
    (r"0." + 400 * "0" + "1x", "2x", 0),
    ("2.71828", r"(1+\frac{1}{10^6})^{10^6}", 1),
    ("3.14159", r"\frac{30000!}{29999!}", None),
    ("e^{x^2}", "(1+x)^{99999}", 0),
    ("2^{n^2}", "(1+x)^{99999}", 0),
    ("2^{2^n}", "(1+x)^{99999}", 0),
    ("10^{-9^9}", "10^{-387420489}", 1),
    (r"2^{3\cdot 10^9}", "2^{3000000000}", 1),
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
