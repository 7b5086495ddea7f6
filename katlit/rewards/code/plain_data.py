"""Plain data as JSON: what a program and the tests of its functions hand each other.

Plain are numbers, text, bytes, the built-in containers, ranges, fractions, decimals, deques, dates and times:
what has no code of the program's. Any other object goes as a number by which its side knows it.

Runs inside the sandbox too, given as text; it imports nothing but the standard library.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

PROGRAM = "answer"  # the name of the module that the program runs as
_EXACT = 1 << 53
# Name: type, how it is read from a list of its items.
_ROWS: dict[str, tuple[type[Iterable[Any]], Callable[[list[Any]], Any]]] = {
    "list": (list, list),
    "tuple": (tuple, tuple),
    "set": (set, set),
    "frozenset": (frozenset, frozenset),
    "keys": (type({}.keys()), lambda keys: dict.fromkeys(keys).keys()),
    "items": (type({}.items()), lambda items: dict(items).items()),
}
# Name: type, how it is written, how it is read.
_SCALARS: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "int": (int, hex, lambda digits: int(digits, 16)),
    "complex": (complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    "bytes": (bytes, lambda value: value.decode("latin-1"), lambda text: bytes(text, "latin-1")),
    "bytearray": (bytearray, lambda value: value.decode("latin-1"), lambda text: bytearray(text, "latin-1")),
}
# Types of the library by module and name, and what makes the value anew; imported where one is met.
_BUILT: dict[str, Callable[[Any], list[Any]]] = {
    "builtins.range": lambda value: [value.start, value.stop, value.step],
    "fractions.Fraction": lambda value: [value.numerator, value.denominator],
    "decimal.Decimal": lambda value: [str(value)],
    "collections.deque": lambda value: [list(value), value.maxlen],
    "datetime.date": lambda value: [value.year, value.month, value.day],
    "datetime.timedelta": lambda value: [value.days, value.seconds, value.microseconds],
    "datetime.time": lambda value: [value.hour, value.minute, value.second, value.microsecond],
    "datetime.datetime": lambda value: [*value.timetuple()[:6], value.microsecond],
}
_TYPES = (str, bytes, bytearray, int, float, complex, list, tuple, dict, set, frozenset, range)
ATTRIBUTES = frozenset(name for kind in _TYPES for name in dir(kind) if not name.startswith("_"))

Refer = Callable[[Any], int]


def encode(value: Any, refer: Refer) -> Any:
    """JSON for a value; `refer` gives the number of an object that is not plain data."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int) and abs(value) < _EXACT:
        return int(value)
    for name, (scalar, write, _) in _SCALARS.items():
        if isinstance(value, scalar):
            return [name, write(value)]
    return _encode_container(value, refer)


def _encode_container(value: Any, refer: Refer) -> Any:
    kind = type(value)
    if _has_methods(kind):
        return ["object", refer(value)]
    built = f"{kind.__module__}.{kind.__qualname__}"
    if built in _BUILT and getattr(value, "tzinfo", None) is None:
        return [built, [encode(part, refer) for part in _BUILT[built](value)]]
    for name, (row, _) in _ROWS.items():
        if isinstance(value, row):
            return [name, [encode(item, refer) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(key, refer), encode(item, refer)] for key, item in value.items()]]
    return ["object", refer(value)]


def _has_methods(kind: type) -> bool:
    """Whether the program made more of a container than a container."""
    own = kind.__module__ == PROGRAM and not hasattr(kind, "_fields")  # a named tuple is a tuple
    return own and any(not name.startswith("_") for name in vars(kind))


def decode(value: Any, look_up: Callable[[int], Any]) -> Any:
    """The value of such JSON; an object is what `look_up` gives for its number."""
    if not isinstance(value, list):
        return value
    name, content = value
    if name in _ROWS:
        return _ROWS[name][1]([decode(item, look_up) for item in content])
    if name == "dict":
        return {decode(key, look_up): decode(item, look_up) for key, item in content}
    if name in _BUILT:
        module, _, kind = name.partition(".")
        parts = [decode(part, look_up) for part in content]
        return getattr(importlib.import_module(module), kind)(*parts)
    return _SCALARS[name][2](content) if name in _SCALARS else look_up(content)
