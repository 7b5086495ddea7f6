"""Calls of tools inside an answer: how they are written, and how they are read and checked; pure functions.

A call is a block of Hermes' form, on lines of its own after any text of the answer:

    <tool_call>
    {"name": "weather", "arguments": {"city": "Bern"}}
    </tool_call>
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum, auto
from typing import Any, NamedTuple

CALL_TAGS = ("<tool_call>", "</tool_call>")
RESULT_TAGS = ("<tool_response>", "</tool_response>")
TOOL_TAGS = (*CALL_TAGS, *RESULT_TAGS, "<tools>", "</tools>")

_OPEN = re.compile(r"(?:^|\n)<tool_call>(?=\n|$)")
_CLOSE = re.compile(r"\n</tool_call>(?=\n|$)")


class ToolCallFault(StrEnum):
    """What is wrong with the calls of an answer."""

    UNCLOSED_TOOL_CALL = auto()
    MALFORMED_TOOL_CALL = auto()  # no JSON object that holds a name and an object of arguments, and no more
    UNKNOWN_TOOL = auto()  # it was not offered
    TEXT_AFTER_TOOL_CALL = auto()


class ToolCall(NamedTuple):
    """One call of a tool."""

    name: str
    arguments: dict[str, Any]


class SplitAnswer(NamedTuple):
    """An answer, divided into what the user reads and what is called."""

    text: str
    calls: tuple[ToolCall, ...]  # the well-formed ones
    fault: ToolCallFault | None  # the first one


def split_answer(answer: str, offered: Collection[str] | None = None) -> SplitAnswer:
    """Divide an answer into its text and its calls, and name the first fault.

    Args:
        answer: Text inside `<answer>`.
        offered: Names of the tools that may be called; None if any may.
    """
    first = _OPEN.search(answer)
    if first is None:
        return SplitAnswer(answer, (), _stray_tag(answer, offered))
    calls: list[ToolCall] = []
    faults: list[ToolCallFault] = []
    position = first.start()
    while opened := _OPEN.match(answer, position):
        closed = _CLOSE.search(answer, opened.end())
        if closed is None:
            faults.append(ToolCallFault.UNCLOSED_TOOL_CALL)
            position = len(answer)
            break
        call = _read_call(answer[opened.end() : closed.start()])
        position = closed.end()
        if call is None:
            faults.append(ToolCallFault.MALFORMED_TOOL_CALL)
            continue
        calls.append(call)
        if offered is not None and call.name not in offered:
            faults.append(ToolCallFault.UNKNOWN_TOOL)
    if answer[position:].strip():
        faults.append(ToolCallFault.TEXT_AFTER_TOOL_CALL)
    text = answer[: first.start()]
    return SplitAnswer(text, tuple(calls), _stray_tag(text, offered) or next(iter(faults), None))


def _stray_tag(text: str, offered: Collection[str] | None) -> ToolCallFault | None:
    """A block that is not on lines of its own: other readers would take it for a call."""
    opening, closing = CALL_TAGS
    stray = offered is not None and closing in text.partition(opening)[2]
    return ToolCallFault.MALFORMED_TOOL_CALL if stray else None


def _read_call(text: str) -> ToolCall | None:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        return None
    name, arguments = value["name"], value["arguments"]
    return ToolCall(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def join_answer(text: str, calls: Sequence[ToolCall]) -> str:
    """Write an answer that calls tools, as `split_answer` reads it."""
    blocks = [
        f"<tool_call>\n{json.dumps(call._asdict(), ensure_ascii=False)}\n</tool_call>" for call in calls
    ]
    return "\n".join([text] * bool(text) + blocks)


def tool_names(tools: Sequence[Mapping[str, Any]] | None) -> frozenset[str] | None:
    """The names in a list of OpenAI's function schemas; None where there is no list."""
    return None if tools is None else frozenset(tool["function"]["name"] for tool in tools)


def arguments_as_object(arguments: Any) -> dict[str, Any]:
    """Arguments of a call in a conversation, an object or its JSON text; anything else counts as none.

    A server reads them so too, in order that one bad call of the past does not end a conversation.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return {}
    return dict(arguments) if isinstance(arguments, Mapping) else {}
