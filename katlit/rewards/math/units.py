"""Units and nouns after a number, so that 5 m and 5 cm are not the same, and 12 balloons are 12."""

import re
from dataclasses import dataclass

from katlit.rewards.math.numerals import NUMBER_WORD, read_numeral

_NAMES = {
    "m": "m meter meters metre metres", "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters", "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
    "g": "g gram grams", "kg": "kg kilogram kilograms", "mg": "mg milligram milligrams",
    "pound": "lb lbs pound pounds", "oz": "oz ounce ounces", "s": "s sec secs second seconds",
    "min": "min mins minute minutes", "h": "h hr hrs hour hours", "day": "day days", "week": "week weeks",
    "month": "month months", "year": "year years yr yrs", "l": "l L liter liters litre litres",
    "ml": "ml mL milliliter milliliters", "gal": "gal gallon gallons", "dollar": "dollar dollars USD",
    "cent": "cent cents", "euro": "euro euros €", "yen": "yen ¥", "rupee": "rupee rupees ₹",
    "degree": "degree degrees deg", "radian": "rad radian radians", "N": "N newton newtons",
    "J": "J joule joules", "kJ": "kJ", "W": "W watt watts", "kW": "kW", "kWh": "kWh", "V": "V volt volts",
    "Pa": "Pa pascal pascals", "Hz": "Hz hertz", "mol": "mol moles",
    "mi/h": "mph", "km/h": "kph kmh", "°C": "°C", "°F": "°F",
}  # fmt: skip
UNITS = {name: unit for unit, names in _NAMES.items() for name in names.split()}
_CURRENCIES = {"$": "dollar", "USD": "dollar", "£": "pound", "€": "euro", "¥": "yen", "₹": "rupee"}

_NAME = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
# One or two of them, "km/h" or "meters per second"; each perhaps "square", or with a power.
_ONE = (
    rf"(?:(?P<kind{{0}}>square|cubic|sq\.?)\s+)?(?P<name{{0}}>{_NAME})(?![a-zA-Z])"
    r"(?:\s*\^?\s*\{{?(?P<power{0}>[23])\}}?)?"
)
_KNOWN = re.compile(
    rf"{_ONE.format(1)}(?:\s*(?:/|per\s|an?\s(?=(?:{_NAME})\b))\s*(?:an?\s+|one\s+)?{_ONE.format(2)})?"
)
_POWERS = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3"}
_DEGREES = re.compile(r"(?P<value>.*?)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?P<scale>(?:\\text\s*\{)?[CF]\}?)?")
_TEXT = re.compile(
    r"(?P<value>.+?)\s*\\(?:text|textbf|textrm|mathrm|mbox|operatorname)\s*\{(?P<unit>[^{}]*)\}"
    r"(?:\s*\^\s*\{?(?P<power>[23])\}?)?"
)
# A value ends in a digit or a brace, so that no name of a variable is one: "3t" is not 3, "5cm" is 5 cm.
_BARE = re.compile(r"(?P<value>.*(?:[\d})%]|\\pi(?=\s)))(?P<space>\s*)(?P<unit>[a-zA-Z€¥₹$£].*)")
_AMOUNT = re.compile(r"(?P<sign>-?)\s*(?:US\s?)?\\?(?P<currency>[$£€¥₹]|USD(?=\s))\s*(?P<value>.*)")
_FILLERS = re.compile(
    r"(?:(?:more|additional|total|extra|full|whole|other|remaining|different|distinct|new|of)\s+)+"
)
_NOUNS = re.compile(r"(?=[A-Za-z]{3}|of\s)[A-Za-z][a-z'’-]+(?:\s+(?:[A-Za-z][A-Za-z'’-]+|a|I)){0,12}\.?")
# Words after a number that make another one of it, or begin something else.
_NO_NOUN = re.compile(
    r"(?:and|or|plus|minus|times|over|divided|squared|cubed|factorial|mod|modulo|choose|half|halves|thirds?|"
    r"fourths?|quarters?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|hundredths?|thousandths?|"
    r"(?:hundred|thousand|million|billion|trillion|ten|dozen|one)s?|point|raised|multiplied|increased|decreased|"
    r"reduced|if|when|where|for|with|sin|cos|tan|cot|sec|csc|log|ln|"
    r"exp|sqrt|pi|base|less|fewer|not|but|mixed|infinity|inf|percent|percentage|pct)\b",
    re.I,
)
_ANYWHERE = re.compile(r"\b(?:and|or|plus|minus|but|not|half|if|when|mod|(?:below|under)\s+zero)\b", re.I)
_SECOND = re.compile(rf"[ ,]*(?:and\s+)?{NUMBER_WORD}", re.I)


SCALE = re.compile(r"(?:hundred|thousand|million|billion|trillion|dozen)\b", re.I)


@dataclass(frozen=True, slots=True)
class Unit:
    """What is counted: a unit that we know by its one name, or the stems of some words."""

    name: str = ""
    stems: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """The unit in a message."""
        return self.name or " ".join(sorted(self.stems))

    def agrees(self, other: "Unit") -> bool:
        """Whether both may stand for the same: one name, or a word in common."""
        return self.name == other.name if self.name or other.name else bool(self.stems & other.stems)


_WORDED = re.compile(r"\\text\s*\{\s*([\d.,/]+\s[^{}]*)\}")


def split_unit(expression: str) -> tuple[str, Unit | None]:
    """The expression without its unit or noun, and that; None where it has none.

    Units are not converted: 100 cm are not 1 m here (our choice). A letter directly after a number is a
    variable, so is any letter after a space that is no unit's.
    """
    worded = _WORDED.fullmatch(expression)
    for read in (_amount, _degrees, _text, _bare):
        value, unit = read(worded[1] if worded else expression)
        if unit:
            return value, unit
    return expression, None


def _amount(expression: str) -> tuple[str, Unit | None]:
    match = _AMOUNT.fullmatch(expression)
    if match is None:
        return expression, None
    value = match["value"]
    for read in (_text, _bare):  # "$5 million in total"
        rest, unit = read(value)
        value = rest if unit else value
    return match["sign"] + value, Unit(_CURRENCIES[match["currency"]]) if value else None


def _degrees(expression: str) -> tuple[str, Unit | None]:
    match = _DEGREES.fullmatch(expression)
    if match is None or not match["value"]:
        return expression, None
    scale = re.search("[CF]", match["scale"] or "")
    return match["value"], Unit(f"°{scale[0]}") if scale else Unit("degree")


def _text(expression: str) -> tuple[str, Unit | None]:
    match = _TEXT.fullmatch(expression)
    if match is None or not re.search(r"[\w})]\Z", match["value"]):
        return expression, None
    name = match["unit"].strip()
    return match["value"], read_unit(name + (match["power"] or ""))


def _bare(expression: str) -> tuple[str, Unit | None]:
    match = _BARE.fullmatch(expression)
    if match is None:
        return expression, None
    value, name = match["value"].strip(), match["unit"].strip().removesuffix(".")
    if currency := _CURRENCIES.get(name.removeprefix("\\")):
        return value, Unit(currency)
    if scale := SCALE.match(name):
        return f"{value} {scale[0]}", read_unit(name[scale.end() :])
    spaced = bool(match["space"])
    if read_numeral(value):
        unit = read_unit(name, nouns=spaced)
        letter = re.match(r"[a-zA-Z](?![a-zA-Z])", name)
        return (value, unit) if spaced or not letter else (expression, None)
    known = re.match(r"[a-zA-Z]{2}", name) and spaced
    return (value, read_unit(name, nouns=False)) if known else (expression, None)


def read_unit(text: str, *, nouns: bool = True) -> Unit | None:
    """The unit that a text starts with, other words after it left out; None where it is none.

    Args:
        text: What follows a number.
        nouns: Whether words that are no unit count: "red balloons".
    """
    text = _FILLERS.sub("", text.strip(), count=1)
    match = _KNOWN.match(text)
    if match and _SECOND.match(text, match.end()):  # "feet six inches"
        return None
    if match and (match.end() == len(text) or _may_go_on(match[0], text[match.end() :])):
        return Unit(_known(match))
    if not nouns or _NO_NOUN.match(text) or not _NOUNS.fullmatch(text) or _ANYWHERE.search(text):
        return None
    words = re.findall(r"[a-z]{3,}", text.lower())
    return Unit(stems=frozenset(_stem(word) for word in words) or frozenset({text}))


def _may_go_on(unit: str, rest: str) -> bool:
    """Whether words may follow a unit: "5 km away", but not "12 in total"."""
    if len(unit) == 1 or unit == "in" or not re.fullmatch(r"\s+[A-Za-z',-][A-Za-z' ,-]*\.?", rest):
        return False
    words = rest.strip(" .,")
    return not (_ANYWHERE.search(words) or _NO_NOUN.match(words) or re.search(r"\b[b-zB-HJ-Z]\b", words))


def _known(match: re.Match[str]) -> str:
    first = UNITS[match["name1"]] + (match["power1"] or _POWERS.get(match["kind1"] or "", ""))
    return first + (f"/{UNITS[match['name2']]}{match['power2'] or ''}" if match["name2"] else "")


def _stem(word: str) -> str:
    if word.endswith("ies"):
        return word.removesuffix("ies") + "y"
    return re.sub(r"(?<=[xhs])es\Z|(?<!s)s\Z", "", word)
