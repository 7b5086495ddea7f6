"""Calls of tools and their results in the turns of a conversation, in whatever form a data set has them."""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from katlit.datamodules.offered_tools import Tool
from katlit.errors import UserError

Turn = dict[str, Any]

_BLOCK = re.compile(r"<tool_call>(.*?)(</tool_call>|\Z)", re.DOTALL)
_RESULT = re.compile(r"<tool_response>\s*(.*?)\s*</tool_response>", re.DOTALL)
_FORM = '{"name": …, "arguments": {…}}'


def calls_of(turn: Turn, where: str) -> list[Turn]:
    """The calls that an assistant's turn has beside its text: OpenAI's `tool_calls`, or `function_call`.

    Raises:
        UserError: where one of them is no call.
    """
    given = turn.get("tool_calls") or turn.get("function_call") or []
    if isinstance(given, str):
        given = parsed(given)
    calls = given if isinstance(given, list) else [given]
    return [_call(call, f"{where}: call {number}") for number, call in enumerate(calls, 1)]


def split_blocks(text: str, where: str) -> tuple[str, list[Turn]]:
    """A text without the `<tool_call>` blocks in it (Hermes' form), and the calls in these.

    Raises:
        UserError: where a block is not closed, or holds no call.
    """
    calls = []
    for number, (inside, closed) in enumerate(_BLOCK.findall(text), 1):
        if not closed:
            raise UserError(f"{where}: its <tool_call> {number} is never closed; leave out the row")
        calls.append(_call(parsed(inside), f"{where}: <tool_call> {number}"))
    return (_BLOCK.sub("", text).strip() if calls else text), calls


def _call(value: Any, where: str) -> Turn:
    """One call in OpenAI's form, its arguments an object; `id` only where it has one."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UserError(f"{where} must be {_FORM}, found {value!r:.80}")
    given = function.get("arguments")
    if "arguments" in function and given in (None, ""):  # as some write a call without any
        given = {}
    arguments = parsed(given) if isinstance(given, str) else given
    if not isinstance(arguments, dict):
        raise UserError(
            f"{where}, of {function['name']!r:.80}: its arguments must be a JSON object, found {given!r:.80}"
        )
    call: Turn = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": value["id"]} | call if value.get("id") is not None else call


def parsed(text: str) -> Any:
    """What a text says in JSON, or as a literal of Python, which Hermes' data have; None if neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def results_of(turn: Turn, content: Any) -> list[Turn]:
    """The results that a turn of a tool has: several where it is several `<tool_response>` blocks."""
    text = text_of(content)
    kept = {key: turn[key] for key in ("tool_call_id", "name") if turn.get(key) is not None}
    blocks = [] if _RESULT.sub("", text).strip() else _RESULT.findall(text)
    return [{"role": "tool", "content": part} | kept for part in blocks or [text]]


def match_calls(turns: Sequence[tuple[str, Turn]], tools: Sequence[Tool]) -> list[Turn]:
    """Pair calls and results: calls are numbered, results named and put in the order of the calls.

    Args:
        turns: Each with its place, for messages.
        tools: What is offered.

    Raises:
        UserError: for a call of a tool that is not offered, a result without a call, a call without one.
    """
    offered = {tool["function"]["name"] for tool in tools}
    matched: list[Turn] = []
    open_calls: list[Turn] = []  # without a result, as the data set has them
    number = 0
    for place, (where, turn) in enumerate(turns):
        if turn["role"] == "tool":
            alone = "tool" not in [other["role"] for _, other in turns[place - 1 : place + 2 : 2]]
            parts = _shared(turn, len(open_calls)) if alone else [turn]
            matched += [_result(part, open_calls, where) for part in parts]
            continue
        _require_results(open_calls, where)
        calls = []
        for call in turn.get("tool_calls", ()):
            _require_offered(call, offered, where)
            # Nine letters and digits, which is what Mistral's templates ask for.
            open_calls.append(call | {"number": f"call{number:05d}"})
            calls.append({"id": f"call{number:05d}", "type": "function", "function": call["function"]})
            number += 1
        matched.append(turn | {"tool_calls": calls} if calls else turn)
    if turns[-1][1]["role"] == "tool":
        _require_results(open_calls, turns[-1][0])
    return _in_order(matched)


def _shared(turn: Turn, calls: int) -> list[Turn]:
    """The results of parallel calls that share one turn as a list, as ShareGPT's observations do."""
    results = parsed(turn["content"]) if calls > 1 and not turn.keys() & {"tool_call_id", "name"} else None
    if not isinstance(results, list) or len(results) != calls:
        return [turn]
    return [{"role": "tool", "content": text_of(one)} for one in results]


def text_of(result: Any) -> str:
    """A result as text: JSON, where it is none."""
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)


def _result(turn: Turn, open_calls: list[Turn], where: str) -> Turn:
    """A result with the number and name of its call, which is open no longer."""
    wanted = turn.get("tool_call_id")
    if wanted is not None and any("id" in call for call in open_calls):
        found = [call for call in open_calls if call.get("id") == wanted]
    else:
        wanted = turn.get("name")
        found = [call for call in open_calls if wanted in (None, call["function"]["name"])]
    if not found:
        named = turn.get("tool_call_id", turn.get("name"))
        which = "" if named is None else f"of {named!r:.80} "
        raise UserError(f"{where}: it is a result {which}without a call that asked for it; leave out the row")
    open_calls.remove(found[0])
    return {
        "role": "tool",
        "content": turn["content"],
        "tool_call_id": found[0]["number"],
        "name": found[0]["function"]["name"],
    }


def _require_results(open_calls: Sequence[Turn], where: str) -> None:
    if open_calls:
        name = open_calls[0]["function"]["name"]
        raise UserError(f"{where}: a call of {name!r:.80} before it has no result; leave out the row")


def _require_offered(call: Turn, offered: set[str], where: str) -> None:
    name = call["function"]["name"]
    if name not in offered:
        offers = f"the row offers {sorted(offered)}" if offered else "the row offers no tools"
        raise UserError(
            f"{where}: it calls {name!r:.80}, but {offers!s:.160}; name the column of the tools, e.g. "
            "columns: {tools: functions}, or leave out the row"
        )


def _in_order(turns: Sequence[Turn]) -> list[Turn]:
    """Results in the order of their calls, whose numbers go on from turn to turn."""
    ordered: list[Turn] = []
    for turn in turns:
        place = len(ordered)
        while turn["role"] == "tool" and ordered[place - 1].get("tool_call_id", "") > turn["tool_call_id"]:
            place -= 1
        ordered.insert(place, turn)
    return ordered
