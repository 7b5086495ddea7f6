import json
from typing import Any

import pytest

from katlit.datamodules.offered_tools import read_tools
from katlit.errors import UserError

WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOL = {"type": "function", "function": WEATHER}
SCHEMA = {"name": "weather", "description": "Tells the weather.", "input_schema": WEATHER["parameters"]}
TABLE = WEATHER | {"strict": None, "parameters": WEATHER["parameters"] | {"additionalProperties": None}}


@pytest.mark.parametrize(
    "value",
    [
        [TOOL],
        TOOL,
        [WEATHER],  # OpenAI's former `functions`, LLaMA-Factory, ToolACE
        [{"type": "function"} | WEATHER],
        [SCHEMA],
        [TABLE],  # columns of Parquet have the keys of all rows
        [TOOL, TOOL],
        [json.dumps(TOOL)],
        json.dumps([TOOL]),  # TRL and Hermes keep them as text
        json.dumps([WEATHER]),
        json.dumps(WEATHER),
    ],
)
def test_every_form_becomes_one(value: Any) -> None:
    assert read_tools(value, "rows.jsonl:1") == [TOOL]
    assert read_tools(read_tools(value, ""), "") == [TOOL]


@pytest.mark.parametrize("value", [None, "", " ", [], "[]"])
def test_no_tools(value: Any) -> None:
    assert read_tools(value, "rows.jsonl:1") == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("weather", "field 'tools': it must be a list of tools, found the text 'weather'"),
        ([3], "tool 1 of 'tools': it must be a function with a name, .*found 3"),
        ([TOOL, {"function": {}}], "tool 2 of 'tools': it must be a function with a name"),
        ([{"name": 3}], "tool 1 of 'tools': it must be a function with a name"),
        ([{"name": "a"}, {"name": "a", "parameters": {}}], "tool 2 .*: its name 'a' is another tool's"),
        ("[" * 100_000, "field 'tools': it must be a list of tools"),
    ],
)
def test_what_is_no_tool_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"^rows\.jsonl:1: {message}"):
        read_tools(value, "rows.jsonl:1")
