"""Numbers as they are written: integers, decimals, fractions, percentages; compared exactly."""

import re
from dataclasses import dataclass
from fractions import Fraction

SIGNIFICANT = 6  # a decimal of so many digits may stand for the number that it is rounded from: our choice

NUMBER_WORD = (
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty)\b"
)
_INTEGER = r"(?:\d{1,3}(?:,\d{3}){1,300}|\d{1,3}(?: \d{3}){1,300}|\d{1,1000})"
_DECIMAL = re.compile(
    rf"(?P<whole>{_INTEGER})?\.?(?:(?<=\.)(?P<part>\d{{0,1000}})(?:\\overline\s*\{{(?P<again>\d{{1,100}})\}})?)?"
    r"(?:\s*(?:[eE]|(?:\\times|\\cdot|\*|x)\s*10\s*\^)\s*\{?(?P<power>[+-]?\d{1,3})\}?)?"
)
# Such a number takes sympy longer to write out than any limit allows.
_ENORMOUS = re.compile(r"(?:(?<=[\d.])[ ]?[eE]|\^|\*\*)[\s{(]*[+-]?\s*0*[1-9]\d{4}")
_QUOTIENT = re.compile(
    rf"(?:(?P<mixed>\d{{1,100}})(?:\s+(?=\d)|\s*(?=\\)))?"
    rf"(?:(?P<a>-?{_INTEGER})\s*/\s*(?P<b>{_INTEGER})"
    rf"|\\frac\s*\{{\s*(?P<c>-?{_INTEGER})\s*\}}\s*\{{\s*(?P<d>{_INTEGER})\s*\}}|\\frac\s*(?P<e>\d)\s*(?P<f>\d))"
)
_PERCENT = re.compile(r"(?P<number>.*?)\s*(?:\\?%|(?:\\text\s*\{)?\s*(?:percent(?:age)?|pct)\s*\}?)", re.I)
_SCALED = re.compile(
    r"(?P<number>.*?\d)\s*(?:\\text\s*\{\s*)?(?P<scale>hundred|thousand|million|billion|trillion|dozen)\s*\}?",
    re.I,
)
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number as it is written.

    Args:
        value: The number, without the percent sign.
        percent: Whether there is one.
        rounding: Half a unit of a decimal's last place, where it has `SIGNIFICANT` digits; else 0.
    """

    value: Fraction
    percent: bool = False
    rounding: Fraction = Fraction(0)


def read_numeral(text: str) -> Numeral | None:
    """The numeral that the text is; None where it is anything else."""
    text = " ".join(text.split())  # a run of spaces takes the patterns cubic time
    percent = _PERCENT.fullmatch(text)
    body = percent["number"] if percent else text
    sign = -1 if body.startswith("-") else 1
    number = _unsigned(body.lstrip("+-").strip() if body[:1] in {"+", "-"} else body)
    if number is None or body[1:2] in {"+", "-"}:
        return None
    return Numeral(sign * number.value, bool(percent), number.rounding)


def _unsigned(body: str) -> Numeral | None:
    if scaled := _SCALED.fullmatch(body):
        number, scale = _unsigned(scaled["number"]), _SCALES[scaled["scale"].lower()]
        return Numeral(number.value * scale, rounding=number.rounding * scale) if number else None
    if match := _QUOTIENT.fullmatch(body):
        above, below = (_integer(match[x] or match[y] or match[z]) for x, y, z in ("ace", "bdf"))
        if below == 0 or (match["mixed"] and above < 0):
            return None
        return Numeral(int(match["mixed"] or 0) + Fraction(above, below))
    match = _DECIMAL.fullmatch(body)
    if match is None or not (match["whole"] or match["part"] or match["again"]):
        return None
    return _decimal(match["whole"] or "", match["part"], match["again"], int(match["power"] or 0))


def _decimal(whole: str, part: str | None, again: str | None, power: int) -> Numeral:
    digits = re.sub("[ ,]", "", whole) + (part or "")
    unit = Fraction(10) ** (power - len(part or ""))
    value = Fraction(int(digits or "0"))
    if again:
        return Numeral((value + Fraction(int(again), 10 ** len(again) - 1)) * unit)
    rounded = part is not None and len(digits.lstrip("0")) >= SIGNIFICANT
    return Numeral(value * unit, rounding=unit / 2 if rounded else Fraction(0))


def _integer(text: str) -> int:
    return int(re.sub("[ ,]", "", text))


def has_enormous_exponent(text: str) -> bool:
    """Whether an exponent of more than four digits stands somewhere in a text, as in 1e99999."""
    return _ENORMOUS.search(text) is not None


def equal(reference: Numeral, answer: Numeral) -> bool:
    """Whether two numerals say the same: exactly, or one of them rounds the other.

    A percent sign is taken for a unit: 50% is 50 as well as 1/2, but 50 is not 1/2.
    """
    slack = max(reference.rounding, answer.rounding)
    if abs(reference.value - answer.value) <= slack:
        return True
    if reference.percent == answer.percent:
        return False
    shown, other = (reference, answer) if reference.percent else (answer, reference)
    return abs(shown.value / 100 - other.value) <= max(shown.rounding / 100, other.rounding)
