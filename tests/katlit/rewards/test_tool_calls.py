"""Calls of tools against a reference."""

import json
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.rewards import AccuracyReward, Sample, ToolCallReward, verdicts_of
from katlit.text.protocol import Mode, ParsedResponse

OSLO: dict[str, Any] = {"name": "weather", "arguments": {"city": "Oslo", "days": 1}}
ROME: dict[str, Any] = {"name": "weather", "arguments": {"city": "Rome", "days": 1}}
TIME: dict[str, Any] = {"name": "time", "arguments": {}}


def prompt(reference: object) -> Prompt:
    return {
        "id": "p1",
        "messages": [{"role": "user", "content": "?"}],
        "tools": [{"type": "function", "function": {"name": name}} for name in ("weather", "time")],
        "reference": reference if isinstance(reference, str) else json.dumps(reference),
        "verifier": "tool_calls",
        "domain": "test",
        "difficulty": 1,
        "metadata": {},
    }


def block(call: object) -> str:
    return f"<tool_call>\n{call if isinstance(call, str) else json.dumps(call)}\n</tool_call>"


def with_days(days: object) -> dict[str, Any]:
    return {"name": "weather", "arguments": {"days": days, "city": "Oslo"}}


def openai(call: dict[str, Any]) -> dict[str, Any]:
    function = call | {"arguments": json.dumps(call["arguments"])}
    return {"id": "c0", "type": "function", "function": function}


def judged(reference: object, answer: str | None, *, cut: bool = False) -> tuple[float | None, str]:
    parsed = ParsedResponse("j", Mode.THINK_OFF, "", answer, None)
    (verdict,) = verdicts_of(AccuracyReward(), [Sample(prompt(reference), parsed, cut, tokens=1)])
    return verdict.value, verdict.reason


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (OSLO, block(OSLO)),
        ([OSLO], block(OSLO)),
        (openai(OSLO), block(OSLO)),
        ([openai(OSLO), openai(TIME)], f"{block(TIME)}\n{block(OSLO)}"),
        (OSLO, block(with_days(1))),  # keys in another order
        (OSLO, block(with_days(1.0))),
        (with_days([1, {"a": None}]), block(with_days([1, {"a": None}]))),
        (OSLO, f"I look it up.\n{block(OSLO)}"),
        ([OSLO, ROME], f"{block(ROME)}\n{block(OSLO)}"),
        ([OSLO, OSLO], f"{block(OSLO)}\n{block(OSLO)}"),
        ([], "Nothing can be looked up."),
    ],
)
def test_the_same_calls_are_right(reference: object, answer: str) -> None:
    assert judged(reference, answer) == (1.0, "the reference's calls")
    assert judged(reference, answer, cut=True) == (0.0, "no answer")


@pytest.mark.parametrize(
    ("reference", "answer", "reason"),
    [
        (OSLO, None, "no answer"),
        (OSLO, "Oslo", "it calls no tool, not weather"),
        (OSLO, json.dumps(OSLO), "it calls no tool, not weather"),
        ([], block(TIME), "it calls time, not no tool"),
        (OSLO, block(TIME), "it calls time, not weather"),
        (OSLO, block(ROME), "arguments differ"),
        (OSLO, block(with_days(True)), "arguments differ"),
        (OSLO, block(with_days("1")), "arguments differ"),
        (OSLO, block({"name": "weather", "arguments": {"city": "Oslo"}}), "arguments differ"),
        (with_days([1, 2]), block(with_days([2, 1])), "arguments differ"),
        (OSLO, f"{block(OSLO)}\n{block(OSLO)}", "it calls weather, weather, not weather"),
        ([OSLO, ROME], block(OSLO), "it calls weather, not weather, weather"),
        ([OSLO, ROME], f"{block(OSLO)}\n{block(OSLO)}", "arguments differ"),
        (OSLO, block(OSLO | {"name": "stocks"}), "unknown_tool"),
        (OSLO, block("{"), "malformed_tool_call"),
        (OSLO, f"<tool_call>{json.dumps(OSLO)}</tool_call>", "malformed_tool_call"),
        (OSLO, block(json.dumps(with_days(float("nan")))), "malformed_tool_call"),
        (OSLO, block(OSLO).removesuffix("</tool_call>"), "unclosed_tool_call"),
        (OSLO, block("[" * 100_000), "malformed_tool_call"),
        (
            OSLO,
            block('{"name": "weather", "arguments": {"a": ' + "[" * 400 + "]" * 400 + "}}"),
            "arguments differ",
        ),
    ],
)
def test_other_calls_are_wrong(reference: object, answer: str | None, reason: str) -> None:
    value, told = judged(reference, answer)
    assert value == 0.0
    assert told.startswith(reason)


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        (OSLO, None),
        ([], None),
        ("", "needs a reference, which is empty"),
        ("weather(Oslo)", "its reference is no JSON of calls of tools: 'weather(Oslo)'"),
        ([OSLO, 3], "its reference is no JSON of calls"),
        ({"name": "weather", "arguments": "Oslo"}, "its reference is no JSON of calls"),
        ("[" * 100_000, "its reference is no JSON of calls"),
        (
            {"name": "stocks", "arguments": {}},
            "its reference calls 'stocks', which the prompt does not offer",
        ),
    ],
)
def test_references_are_looked_at_before(reference: object, problem: str | None) -> None:
    found = ToolCallReward().reference_problem(prompt(reference))
    assert found == problem if problem is None else problem in str(found)
