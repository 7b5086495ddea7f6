"""Calls of tools inside an answer: read, written, and their faults named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from katlit.text.protocol import Mode, Response, Violation, parse, render
from katlit.text.tool_calls import (
    ToolCall,
    ToolCallFault,
    arguments_as_object,
    join_answer,
    split_answer,
    tool_names,
)

F = ToolCallFault
ADD = ToolCall("add", {"a": 1, "b": [2]})
BLOCK = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>'


def block(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


@pytest.mark.parametrize(
    ("answer", "text", "calls", "fault"),
    [
        ("", "", (), None),
        ("It is 3.", "It is 3.", (), None),
        ("Write <tool_call> for it", "Write <tool_call> for it", (), None),
        (BLOCK, "", (ADD,), None),
        (f"Wait.\n{BLOCK}\n{BLOCK}\n", "Wait.", (ADD, ADD), None),
        (block('{"name": "x", "arguments": {}}'), "", (ToolCall("x", {}),), F.UNKNOWN_TOOL),
        (f"{block('add(1)')}\n{BLOCK}", "", (ADD,), F.MALFORMED_TOOL_CALL),
        (block("[1]"), "", (), F.MALFORMED_TOOL_CALL),
        (block('{"name": "add"}'), "", (), F.MALFORMED_TOOL_CALL),
        (block('{"name": 1, "arguments": {}}'), "", (), F.MALFORMED_TOOL_CALL),
        (block('{"name": "add", "arguments": "{}"}'), "", (), F.MALFORMED_TOOL_CALL),
        (block('{"name": "add", "arguments": {}, "id": 1}'), "", (), F.MALFORMED_TOOL_CALL),
        ('<tool_call>\n{"name": "add", "arguments": {}}', "", (), F.UNCLOSED_TOOL_CALL),
        ("<tool_call>", "", (), F.UNCLOSED_TOOL_CALL),
        (f"{BLOCK}\n<tool_call>\n", "", (ADD,), F.UNCLOSED_TOOL_CALL),
        (f"{BLOCK}\nDone.", "", (ADD,), F.TEXT_AFTER_TOOL_CALL),
        (f"{block('x')}\nDone.", "", (), F.MALFORMED_TOOL_CALL),  # the first one
    ],
)
def test_answers(answer: str, text: str, calls: tuple[ToolCall, ...], fault: ToolCallFault | None) -> None:
    assert split_answer(answer, {"add"}) == (text, calls, fault)
    response = Response("j", Mode.THINK_OFF, answer)
    found = parse(render(response), offered={"add"})
    assert found.violation == (None if fault is None else Violation(fault.value))
    assert found.answer == answer
    assert parse(render(response)).valid  # nothing was offered, nothing is looked for


def test_any_tool_may_be_called_where_none_is_named() -> None:
    assert split_answer(BLOCK).fault is None
    assert split_answer("Write <tool_call> for it").fault is None  # it only speaks of one
    assert tool_names(None) is None
    assert tool_names([{"type": "function", "function": {"name": "add"}}]) == {"add"}


JSON = st.dictionaries(st.text(), st.text() | st.integers() | st.none())


@given(st.text("ab <tool_call>\n"), st.lists(st.builds(ToolCall, st.text(), JSON), min_size=1))
def test_round_trip(text: str, calls: list[ToolCall]) -> None:
    if split_answer(f"{text}\n").calls or split_answer(f"{text}\n").fault:
        return
    assert split_answer(join_answer(text, calls)) == (text, tuple(calls), None)


@pytest.mark.parametrize(
    ("given", "read"),
    [({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("", {}), (None, {}), ("[1]", {}), ("nonsense", {})],
)
def test_arguments_of_a_conversation(given: object, read: dict[str, object]) -> None:
    assert arguments_as_object(given) == read
