"""Calls and results, in every form that data sets have them in, and what is refused."""

import json
from typing import Any

import pytest

from katlit.datamodules.conversations import read_conversation
from katlit.datamodules.offered_tools import Tool, read_tools
from katlit.errors import UserError

TOOLS: list[Tool] = read_tools([{"name": "weather"}, {"name": "time"}], "")
ASK = {"role": "user", "content": "Oslo?"}
ARGUMENTS = {"city": "Oslo"}
WEATHER: dict[str, Any] = {"name": "weather", "arguments": ARGUMENTS}
TIME: dict[str, Any] = {"name": "time", "arguments": {}}


def call(number: int, function: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"call{number:05d}", "type": "function", "function": function}


def result(number: int, name: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": f"call{number:05d}", "name": name}


def read(*turns: object, tools: list[Tool] = TOOLS, **settings: bool) -> list[dict[str, Any]]:
    return read_conversation(list(turns), "data.jsonl:7", "messages", tools=tools, **settings)


ONE = [
    ASK,
    {"role": "assistant", "content": "", "tool_calls": [call(0, WEATHER)]},
    result(0, "weather", "rain"),
]
TWO = [
    ASK,
    {"role": "assistant", "content": "", "tool_calls": [call(0, WEATHER), call(1, TIME)]},
    result(0, "weather", "rain"),
    result(1, "time", "noon"),
]
TEXT = json.dumps(WEATHER)
BLOCKS = f"<tool_call>\n{TEXT}\n</tool_call>\n<tool_call>\n{TIME}\n</tool_call>"  # the latter as Python's
WIRE = WEATHER | {"arguments": json.dumps(ARGUMENTS)}
NULLS = {"function_call": None, "name": None, "tool_call_id": None}  # of a table
HERMES = "You call functions. In <tools></tools>:\n<tools>\n[{}]\n</tools>\nIn <tool_call></tool_call>."


def openai(*functions: dict[str, Any], content: object = None) -> dict[str, Any]:
    calls = [{"id": f"c{n}", "type": "function", "function": one} for n, one in enumerate(functions)]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def answered(name: str, content: object) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": content}


def shared(name: str, value: object) -> dict[str, Any]:
    return {"from": name, "value": value}


RAIN, NOON = answered("c0", "rain"), answered("c1", "noon")
BARE = {"role": "tool", "content": "rain"}
BOTH = "<tool_response>rain</tool_response><tool_response>noon</tool_response>"


def replied(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("turns", "wanted"),
    [
        ([ASK, openai(WIRE), RAIN], ONE),
        ([ASK, openai(WEATHER, content=""), {**NULLS, **RAIN}], ONE),
        ([ASK, {"role": "assistant", "tool_calls": [{"function": WEATHER}]}, BARE], ONE),
        ([ASK, {"role": "assistant", "tool_calls": json.dumps([WEATHER])}, answered("c0", "rain")], ONE),
        ([ASK, openai(WEATHER), answered("c0", [{"type": "text", "text": "rain"}])], ONE),
        (
            [ASK, {"role": "assistant", "content": None, "function_call": WIRE},
             {"role": "function", "name": "weather", "content": "rain"}],
            ONE,
        ),
        ([shared("human", "Oslo?"), shared("function_call", TEXT), shared("observation", "rain")], ONE),
        (
            [shared("system", HERMES), ASK, shared("gpt", BLOCKS.partition("\n<")[0] + "</tool_call>"),
             shared("tool", "<tool_response>\nrain\n</tool_response>")],
            ONE,
        ),
        ([ASK, openai(WIRE, TIME), NOON, RAIN], TWO),
        ([ASK, openai(WEATHER, TIME), {"role": "tool", "name": "time", "content": "noon"},
          {"role": "tool", "name": "weather", "content": "rain"}], TWO),
        ([ASK, replied(BLOCKS), BARE,
          {"role": "tool", "content": "noon"}], TWO),
        (
            [ASK, replied(BLOCKS), {"role": "tool", "content": BOTH}],
            TWO,
        ),
        (
            [ASK, shared("function_call", f"[{TEXT}, {json.dumps(TIME)}]"),
             shared("observation", '["rain", "noon"]')],
            TWO,
        ),
    ],
)  # fmt: skip
def test_every_form_becomes_one(turns: list[Any], wanted: list[Any]) -> None:
    assert read(*turns) == wanted
    assert read(*read(*turns)) == wanted


def test_data_are_results_as_json_and_an_empty_result_is_one() -> None:
    for content, text in ({"t": 3}, '{"t": 3}'), ([{"t": 3}], '[{"t": 3}]'), (3, "3"), ("", ""):
        assert read(ASK, openai(WEATHER), answered("c0", content))[-1]["content"] == text


@pytest.mark.parametrize("nothing", ["", None, "{}", {}])
def test_a_call_without_arguments(nothing: object) -> None:
    turns = read(ASK, openai(TIME | {"arguments": nothing}), answered("c0", "noon"))
    assert turns[1]["tool_calls"] == [call(0, TIME)]


def test_a_result_that_quotes_the_tags_of_results_is_kept_whole() -> None:
    page = f"The form is {BOTH}, says the page."
    assert read(ASK, openai(WEATHER), answered("c0", page))[-1] == result(0, "weather", page)


def test_a_text_before_calls_is_kept_and_calls_go_on_from_turn_to_turn() -> None:
    first = openai(WEATHER, content="I look.")
    turns = read(ASK, first, RAIN, {"role": "assistant", "content": f"Now.\n{BLOCKS}"}, *TWO[2:])
    assert [turn["content"] for turn in turns if turn["role"] == "assistant"] == ["I look.", "Now."]
    ids = [one["id"] for turn in turns for one in turn.get("tool_calls", ())]
    assert ids == [turn["tool_call_id"] for turn in turns if turn["role"] == "tool"]
    assert ids == ["call00000", "call00001", "call00002"]


THOUGHT = "<think>\nWhere?\n</think>\n\n"
PROTOCOL = f"<judge>\nj\n</judge>\n\n<think_on>\n{THOUGHT}<answer>\n%s\n</answer>"


@pytest.mark.parametrize(
    "reply",
    [
        openai(WEATHER, content=THOUGHT),
        openai(WEATHER) | {"reasoning_content": "Where?"},
        openai(WEATHER) | {"reasoning": "Where?"},
        {"role": "assistant", "content": THOUGHT + f"<tool_call>{TEXT}</tool_call>"},
        {"role": "assistant", "content": PROTOCOL % f"<tool_call>{TEXT}</tool_call>"},
    ],
)
def test_a_thought_is_kept_while_the_answer_goes_on(reply: dict[str, Any]) -> None:
    tool = {"role": "tool", "content": "rain"}
    going_on = read(ASK, reply, tool)
    assert going_on[1] == ONE[1] | {"reasoning_content": "Where?"}
    assert read(*going_on) == going_on
    ended = read(ASK, reply, tool, {"role": "assistant", "content": "Rain."}, ASK)
    assert ended[:3] == ONE


def test_a_mark_is_text_where_no_tools_are_offered() -> None:
    text = "Write <tool_call> like this: <tool_call>{}</tool_call>"
    turns = read(ASK, {"role": "assistant", "content": text}, ASK, tools=[])
    assert turns[1] == {"role": "assistant", "content": text}


def test_of_a_system_turn_what_another_template_announced_is_left_out() -> None:
    qwen = "Be kind.\n\n# Tools\n\nYou may call:\n<tools>\n{}\n</tools>\n\nCall so: …"
    plain = {"role": "system", "content": "Close <tools> tags with </tools>."}
    assert read(shared("system", HERMES), ASK) == [ASK]
    assert read(shared("system", qwen), ASK) == [{"role": "system", "content": "Be kind."}, ASK]
    assert read(plain, ASK) == [plain, ASK]
    assert read({"role": "system", "content": qwen}, ASK, tools=[])[0]["content"] == qwen


def test_a_call_at_the_end_can_be_cut() -> None:
    for last in openai(WEATHER), shared("function_call", TEXT), shared("function_call", "?"):
        assert read(ASK, last, cut_last_reply=True) == [ASK]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([ASK, openai(WEATHER | {"arguments": "city"}), RAIN],
         "turn 2 of 'messages': call 1, of 'weather': its arguments must be a JSON object, found 'city'"),
        ([ASK, openai(WEATHER | {"arguments": [1]}), RAIN], "turn 2 .*: its arguments must be a JSON object"),
        ([ASK, openai({"name": "time"}), RAIN], "turn 2 .*: its arguments must be a JSON object, found None"),
        ([ASK, openai(WEATHER) | {"reasoning_content": ["a"]}, RAIN],
         r"turn 2 of 'messages': its 'reasoning_content' must be text, found \['a'\]"),
        ([ASK, openai(TIME, {"arguments": {}}), RAIN], "turn 2 of 'messages': call 2 must be"),
        ([ASK, {"role": "assistant", "tool_calls": 3}, RAIN], "turn 2 .*: call 1 must be .*found 3"),
        ([ASK, shared("function_call", "weather"), RAIN], "turn 2 .*: its call must be a JSON object"),
        ([ASK, replied("<tool_call>weather</tool_call>"), RAIN], "turn 2 .*: <tool_call> 1 must be"),
        ([ASK, replied(f"<tool_call>{TEXT}"), RAIN], "turn 2 .*: its <tool_call> 1 is never closed"),
        ([ASK, openai(WEATHER | {"name": "stocks"}), RAIN],
         r"turn 2 .*: it calls 'stocks', but the row offers \['time', 'weather'\]; name the column"),
        ([ASK, RAIN], "turn 2 of 'messages': it is a result of 'c0' without a call"),
        ([ASK, BARE], "turn 2 of 'messages': it is a result without a call"),
        ([ASK, openai(WEATHER), RAIN, RAIN], "turn 4 of 'messages': it is a result of 'c0' without a call"),
        ([ASK, openai(WEATHER), NOON], "turn 3 of 'messages': it is a result of 'c1' without a call"),
        ([ASK, openai(WEATHER, TIME), RAIN], "turn 3 .*: a call of 'time' before it has no result"),
        ([ASK, openai(WEATHER), ASK], "turn 3 .*: a call of 'weather' before it has no result"),
        ([ASK, openai(WEATHER)], "'messages' ends with a turn of the assistant"),
        ([ASK, {"role": "assistant", "content": None}, ASK], "turn 2 .*: its content must be text"),
    ],
)  # fmt: skip
def test_what_is_no_call_or_result_is_refused_by_file_line_and_turn(turns: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.jsonl:7: {message}"):
        read(*turns)


def test_calls_without_tools_name_the_column() -> None:
    with pytest.raises(
        UserError, match=r"but the row offers no tools; name the column of the tools, e.g. columns"
    ):
        read(ASK, openai(WEATHER), RAIN, tools=[])
