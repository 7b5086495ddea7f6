"""What a JSON object says is the answer, for users who ask for one."""

import json
import re
from typing import Any

from katlit.rewards.base import Sample

_KEY = "answer"
_AROUND_KEYS = re.compile(r"""[\s"']""")
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.S | re.I)


def plain_answer(sample: Sample) -> str | None:
    """The answer of a sample, taken out of its JSON object where it is one; None where it has none.

    That is the value of the key "answer", or of an object's only key, if it is a number, a text or a truth
    value; the object may stand in a code block. An object without exactly one such value answers nothing, and
    neither does what begins like an object, names "answer" and is no JSON: else the last number in it would
    count. An answer to a question whose reference is an object itself stays as it is.
    """
    answer = sample.answer
    if answer is None or _is_object(sample.prompt["reference"]) or not _is_object(answer):
        return answer
    return _held(_members(answer) or [])


def _is_object(text: str) -> bool:
    """Whether a text is a JSON object with something in it, or begins like one and names "answer"."""
    if _members(text):
        return True
    bare = _AROUND_KEYS.sub("", text.casefold().replace("```json", "```")).removeprefix("```")
    return bare.startswith("{") and any(f"{before}{_KEY}:" in bare for before in "{,")


def _members(text: str) -> list[tuple[str, Any]] | None:
    """Keys and values of an object, numbers as they are written; None where the text is none."""
    text = text.strip()
    block = _FENCE.fullmatch(text)
    text = block[1].strip() if block else text
    if not text.startswith("{"):
        return None
    try:
        found: list[tuple[str, Any]] = json.loads(
            text, object_pairs_hook=list, parse_int=str, parse_float=str, parse_constant=str
        )
    except (ValueError, RecursionError):
        return None
    return found


def _held(members: list[tuple[str, Any]]) -> str | None:
    named = [value for key, value in members if key.strip().casefold() == _KEY]
    values = named or [value for _, value in members]
    match values:
        case [bool(value)]:
            return str(value).lower()
        case [str(value)]:
            return value
    return None
