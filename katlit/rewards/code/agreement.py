"""Whether what a program gave is what a test wants, where the data allow for a tolerance or a judge's habits.

Runs inside the sandbox too, given as text; it imports nothing but the standard library.
"""

import math
import re
from typing import Any

_NUMBER = re.compile(rb"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_INTEGER = re.compile(rb"[+-]?\d+")


def within(found: float, wanted: float, tolerance: float) -> bool:
    """Whether a number is off by the tolerance at most, absolutely or relative to what is wanted."""
    if found == wanted:
        return True
    return math.isfinite(wanted) and abs(found - wanted) <= tolerance * max(1.0, abs(wanted))


def same_output(found: bytes, wanted: bytes, tolerance: float) -> bool:
    """Whether a program printed what it should, but for white space at the ends of lines and of the output.

    With a tolerance, numbers may be off by it, unless both are written as integers.
    """
    lines = _lines(found), _lines(wanted)
    if lines[0] == lines[1] or not tolerance:
        return lines[0] == lines[1]
    words = [[line.split() for line in side] for side in lines]
    return [len(line) for line in words[0]] == [len(line) for line in words[1]] and all(
        _same_word(*pair, tolerance)
        for ours, theirs in zip(*words, strict=True)
        for pair in zip(ours, theirs, strict=True)
    )


def _lines(output: bytes) -> list[bytes]:
    return [line.rstrip() for line in output.rstrip().split(b"\n")]


def _same_word(found: bytes, wanted: bytes, tolerance: float) -> bool:
    if found == wanted or (_INTEGER.fullmatch(found) and _INTEGER.fullmatch(wanted)):
        return found == wanted
    numbers = _NUMBER.fullmatch(found) and _NUMBER.fullmatch(wanted)
    return bool(numbers) and within(float(found), float(wanted), tolerance)


def same_value(found: Any, wanted: Any, tolerance: float) -> bool:
    """Whether a function gave what it should, which comes from JSON: a tuple is a list, keys are text.

    With a tolerance, numbers may be off by it, unless both are integers.
    """
    if isinstance(found, list | tuple) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(
            same_value(ours, theirs, tolerance) for ours, theirs in zip(found, wanted, strict=True)
        )
    if isinstance(found, dict) and isinstance(wanted, dict):
        found = {str(key): value for key, value in found.items()}
        return found.keys() == wanted.keys() and all(
            same_value(found[key], wanted[key], tolerance) for key in wanted
        )
    numbers = isinstance(found, int | float) and isinstance(wanted, int | float)
    if numbers and not (isinstance(found, int) and isinstance(wanted, int)):
        return within(found, wanted, tolerance)
    return bool(found == wanted)
