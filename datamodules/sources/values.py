"""Values as data sets have them, read as what our fields hold; None where they cannot be."""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

LEVELS = {"easy": 1, "medium": 2, "hard": 3}
_NUMBER = re.compile(r"(?:level\s*)?(\d{1,9}(?:\.\d+)?)", re.IGNORECASE)
_MOST = 2**31


def as_text(value: Any) -> str | None:
    """A text, a number as it is usually written (72.0 is 72), or the only one of a list."""
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float() if math.isfinite(value):
            return format(Decimal(repr(value)), "f").removesuffix(".0")
        case [only]:
            return as_text(only)
    return None


def as_reference(value: Any) -> str | None:
    """A text, or an object or several, such as the tests of a program or calls of tools, as JSON."""
    parts = value if isinstance(value, list) and value else [value]
    data = all(isinstance(part, dict) for part in parts)
    return json.dumps(value, ensure_ascii=False, default=str) if data else as_text(value)


def as_calls(value: Any) -> str | None:
    """A reference of calls of tools: no call at all is one, too."""
    return "[]" if value == [] else as_reference(value)


def as_domain(value: Any) -> str | None:
    """A text; several of a list are joined."""
    if not isinstance(value, list):
        return as_text(value)
    texts = [as_text(one) for one in value]
    return None if None in texts else ", ".join(text for text in texts if text is not None)


def as_difficulty(value: Any, levels: Mapping[str, int]) -> int | None:
    """The nearest whole number of a number, or of a text such as `4.5` or `Level 5`; a word by `levels`."""
    if isinstance(value, str):
        word = value.strip()
        if word.casefold() in levels:
            return levels[word.casefold()]
        found = _NUMBER.fullmatch(word)
        value = float(found[1]) if found else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST:
        return None
    return math.floor(value + 0.5)


def as_object(value: Any) -> dict[str, Any] | None:
    """An object, or one that is JSON in a text."""
    value = _from_json(value)
    return value if isinstance(value, dict) else None


def as_list(value: Any) -> list[Any] | None:
    """A list, or one that is JSON in a text."""
    value = _from_json(value)
    return value if isinstance(value, list) else None


def _from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
