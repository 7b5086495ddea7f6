"""Units after a number, so that 5 m and 5 cm are not the same."""

import re

_NAMES = {
    "m": "m meter meters metre metres", "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters", "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles",
    "g": "g gram grams", "kg": "kg kilogram kilograms", "mg": "mg milligram milligrams",
    "lb": "lb lbs pound pounds", "oz": "oz ounce ounces", "s": "s sec second seconds",
    "min": "min minute minutes", "h": "h hr hrs hour hours", "day": "day days", "week": "week weeks",
    "month": "month months", "year": "year years", "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters", "dollar": "dollar dollars", "cent": "cent cents",
    "euro": "euro euros €", "degree": "degree degrees", "radian": "rad radian radians",
}  # fmt: skip
UNITS = {name: unit for unit, names in _NAMES.items() for name in names.split()}

_NAME = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))
# One or two of them, "km/h" or "meters per second"; each perhaps "square", or with a power.
_ONE = (
    rf"(?:(?P<kind{{0}}>square|cubic|sq\.?)\s+)?(?P<name{{0}}>{_NAME})"
    r"(?:\s*\^?\s*\{{?(?P<power{0}>[23])\}}?)?"
)
_UNIT = re.compile(
    r"(?P<value>.*[\d})])(?:\s+|\s*\\(?:text|mathrm|textrm|mbox)\s*\{\s*|\s*(?=\^\\circ))"
    rf"(?:(?P<degree>\^\\circ)|{_ONE.format(1)}(?:\s*\}}?\s*(?:/|per)\s*{_ONE.format(2)})?)"
    r"\s*\.?\s*\}?(?:\s*\^\s*\{?(?P<outer>[23])\}?)?",
    re.S,
)
_POWERS = {"square": "2", "sq": "2", "sq.": "2", "cubic": "3"}


def split_unit(expression: str) -> tuple[str, str | None]:
    """The expression without its unit, and the unit's one name; None where it has none that we know.

    Units are not converted: 100 cm are not 1 m here (our choice).
    """
    if expression.startswith(("\\$", "$")):
        return expression.lstrip("\\$ "), "dollar"
    match = _UNIT.fullmatch(expression)
    if match is None:
        return expression, None
    if match["degree"]:
        return match["value"], "degree"
    power = match["power1"] or match["outer"] or _POWERS.get(match["kind1"] or "", "")
    unit = UNITS[match["name1"]] + power
    if match["name2"]:
        unit += "/" + UNITS[match["name2"]] + (match["power2"] or "")
    return match["value"].strip(), unit
