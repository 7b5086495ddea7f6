"""Tools that a data set offers, read into OpenAI's form, whatever form it has them in."""

import json
from typing import Any

from katlit.errors import UserError

Tool = dict[str, Any]

_MEND = "mend it, or leave the tools out (of prompts by columns: {tools: null})"
_SCHEMAS = ("input_schema", "inputSchema")  # what others call the parameters


def read_tools(value: Any, where: str, name: str = "tools") -> list[Tool]:
    """Read the tools of a row: a list of them, one of them, or either as JSON in a text.

    Args:
        value: What the data set has; nothing, an empty text and an empty list offer no tools.
        where: File and line, for messages.
        name: What the data set calls it.

    Raises:
        UserError: for what is no tool, and for two tools of one name.
    """
    found = _from_json(value, f"{where}: field '{name}'")
    if not found:
        return []
    tools: dict[str, Tool] = {}
    for number, one in enumerate(found if isinstance(found, list) else [found], 1):
        place = f"{where}: tool {number} of '{name}'"
        tool = _tool(_from_json(one, place), place)
        called = tool["function"]["name"]
        if tools.setdefault(called, tool) != tool:
            raise UserError(f"{place}: its name {called!r:.80} is another tool's; names must differ")
    return list(tools.values())


def _tool(value: Any, place: str) -> Tool:
    """OpenAI's form of a tool: a function with a name, mostly with a description and parameters."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UserError(
            f"{place}: it must be a function with a name, as OpenAI's "
            f'{{"type": "function", "function": {{"name": …, "parameters": …}}}}, found {value!r:.80}; '
            f"{_MEND}"
        )
    kept = {key: _without_nulls(part) for key, part in function.items() if key != "type" and part is not None}
    return {
        "type": "function",
        "function": {"parameters" if key in _SCHEMAS else key: part for key, part in kept.items()},
    }


def _without_nulls(value: Any) -> Any:
    """A schema without the keys that a table gave it, since rows of a table have the same keys."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _from_json(value: Any, place: str) -> Any:
    if not isinstance(value, str) or not value.strip():
        return None if isinstance(value, str) else value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{place}: it must be a list of tools, found the text {value!r:.80}; {_MEND}"
        ) from error
