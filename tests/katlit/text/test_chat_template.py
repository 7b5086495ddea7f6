"""Conversations as the template writes them."""

import json
from typing import Any

import pytest
from tinytokenizers import CHAT, protocol

from katlit.errors import UserError
from katlit.text.chat_template import FORCED_JUDGES
from katlit.text.protocol import Mode, Response, render

ON = FORCED_JUDGES[Mode.THINK_ON]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    ("thinking", "prefill"),
    [
        ("auto", ""),
        ("on", "The user asks for reasoning\n</judge>\n\n<think_on>"),
        ("off", "The user asks for a direct answer\n</judge>\n\n<think_off>"),
    ],
)
def test_golden_prompt(thinking: str, prefill: str) -> None:
    tokenizer = protocol("gpt2").tokenizer
    text = tokenizer.apply_chat_template(
        CHAT,
        add_generation_prompt=True,
        tokenize=False,
        **({} if thinking == "auto" else {"thinking": thinking}),
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 2<|im_end|>\n"
        "<|im_start|>assistant\n3<|im_end|>\n<|im_start|>user\nhello world\n\nagain<|im_end|>\n"
        f"<|im_start|>assistant\n<judge>\n{prefill}"
    )
    assert protocol("gpt2").decode(protocol("gpt2").encode_prompt(CHAT, thinking)) == text


def test_the_template_refuses_other_modes_and_can_leave_the_reply_open() -> None:
    render_chat = protocol("gpt2").tokenizer.apply_chat_template
    with pytest.raises(Exception, match="enable_thinking must be true or false"):
        render_chat(CHAT, enable_thinking="false", tokenize=False)
    with pytest.raises(Exception, match="thinking must be auto, on or off"):
        render_chat(CHAT, thinking="maybe", tokenize=False)
    assert render_chat(CHAT, tokenize=False).endswith("again<|im_end|>\n")


SWITCHES: list[tuple[dict[str, Any], str]] = [
    ({}, "auto"),
    ({"thinking": None, "enable_thinking": None, "reasoning_effort": None}, "auto"),
    ({"thinking": "auto"}, "auto"),
    ({"thinking": True}, "on"),
    ({"thinking": False}, "off"),
    ({"enable_thinking": True}, "on"),
    ({"enable_thinking": False}, "off"),
    ({"reasoning_effort": "none"}, "off"),
    ({"reasoning_effort": "minimal"}, "off"),
    ({"reasoning_effort": "low"}, "on"),
    ({"reasoning_effort": "xhigh"}, "on"),
    ({"reasoning_effort": "none", "enable_thinking": False}, "off"),  # as vLLM adds the second
    ({"reasoning_effort": "minimal", "enable_thinking": True}, "off"),
    ({"reasoning_effort": "high", "enable_thinking": True}, "on"),
    ({"reasoning_effort": "high", "enable_thinking": False}, "off"),
    ({"thinking": "off", "reasoning_effort": "high", "enable_thinking": True}, "off"),
    ({"thinking": "auto", "enable_thinking": False}, "auto"),
]


@pytest.mark.parametrize(("words", "thinking"), SWITCHES, ids=str)
@pytest.mark.parametrize("chat", [CHAT, CHAT[1:]], ids=["system", "no system"])
def test_the_switches_of_every_client(chat: Any, words: dict[str, Any], thinking: str) -> None:
    tokenizer = protocol("gpt2").tokenizer
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **words)
    assert text == protocol("gpt2").decode(protocol("gpt2").encode_prompt(chat, thinking))


# --- agents


def call(arguments: Any, name: str = "add") -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def block(arguments: str, name: str = "add") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def rendered(messages: Any, tools: Any = None, name: str = "gpt2") -> str:
    """The turns that follow a first one of the user, without the open one at the end."""
    p = protocol(name)
    text = p.decode(p.encode_prompt([{"role": "user", "content": "?"}, *messages], tools=tools))
    return text.partition("?<|im_end|>\n")[2].removesuffix("<|im_start|>assistant\n<judge>\n")


def assistant(text: str) -> str:
    return f"<|im_start|>assistant\n{text}<|im_end|>\n"


SUB = block('{"é": null}', "sub")
THOUGHT = f"<judge>\n{ON}\n</judge>\n\n<think_on>\n<think>\nhm\n</think>\n\n<answer>\n"
WHOLE = render(Response("j", Mode.THINK_ON, "a", "hm"))
SHORT = render(Response("j", Mode.THINK_OFF, "a"))
ASK = {"role": "user", "content": "?"}
LATER = "<|im_start|>user\n?<|im_end|>\n"


@pytest.mark.parametrize(
    ("message", "loop", "later"),
    [
        ({"content": "a"}, "a", "a"),
        ({"content": None}, "", ""),
        ({}, "", ""),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a\nb", "a\nb"),
        ({"content": "a", "tool_calls": []}, "a", "a"),
        ({"content": None, "tool_calls": [call({"a": 1})]}, block('{"a": 1}'), block('{"a": 1}')),
        ({"content": "", "tool_calls": [call('{"a":1}')]}, block('{"a": 1}'), block('{"a": 1}')),
        (
            {"content": "a", "tool_calls": [call(""), call({"é": None}, "sub")]},
            f"a\n{block('{}')}\n{SUB}",
            f"a\n{block('{}')}\n{SUB}",
        ),
        ({"content": "a", "reasoning": "hm"}, f"{THOUGHT}a\n</answer>", "a"),
        ({"content": "a", "reasoning_content": "hm"}, f"{THOUGHT}a\n</answer>", "a"),
        (
            {"content": None, "reasoning": "hm", "tool_calls": [call({})]},
            f"{THOUGHT}{block('{}')}\n</answer>",
            block("{}"),
        ),
        ({"content": WHOLE}, WHOLE.removesuffix("<|im_end|>"), "a"),
        ({"content": WHOLE.removeprefix("<judge>\n")}, WHOLE.removesuffix("<|im_end|>"), "a"),
        ({"content": SHORT}, SHORT.removesuffix("<|im_end|>"), "a"),
        ({"content": WHOLE.partition("<think_on>")[2]}, f"{THOUGHT}a\n</answer>", "a"),
        # cut within judge, thinking, answer
        ({"content": "<judge>\nIt"}, "", ""),
        ({"content": WHOLE.partition("m\n</think>")[0]}, "", ""),
        ({"content": WHOLE.partition("\n</answer>")[0]}, WHOLE.removesuffix("<|im_end|>"), "a"),
        # a call that the answer holds as text is the model's own
        ({"content": block("{}")}, block("{}"), block("{}")),
        # only speaks of marks
        ({"content": "Write <think>"}, "Write <\u2060think>", "Write <\u2060think>"),
    ],
)
def test_turns_of_the_assistant(message: dict[str, Any], loop: str, later: str) -> None:
    turn = {"role": "assistant", **message}
    assert rendered([turn]) == assistant(loop)
    assert rendered([turn, ASK]) == assistant(later) + LATER


def test_results_of_tools_share_a_turn_of_the_user() -> None:
    result = {"role": "tool", "tool_call_id": "c1", "content": "3"}
    text = rendered([result, {**result, "content": [{"type": "text", "text": "4"}]}, CALLS, result])
    one, two = (f"\n<tool_response>\n{n}\n</tool_response>" for n in (3, 4))
    user = "<|im_start|>user"
    assert text == f"{user}{one}{two}<|im_end|>\n{assistant(block('{}'))}{user}{one}<|im_end|>\n"


CALLS = {"role": "assistant", "tool_calls": [call({})]}


@pytest.mark.parametrize("before", ["", "Be brief.\n\n"])
def test_tools_stand_in_the_turn_of_the_system(before: str) -> None:
    p = protocol("gpt2")
    system = [{"role": "system", "content": before.strip()}] if before else []
    text = p.decode(p.encode_prompt([*system, ASK], tools=TOOLS))
    assert text.startswith(f"<|im_start|>system\n{before}# Tools\n")
    assert text.count("<|im_start|>system") == 1
    assert f"<tools>\n{json.dumps(TOOLS[0])}\n</tools>" in text
    assert p.encode_prompt([*system, ASK], tools=[]) == p.encode_prompt([*system, ASK])


@pytest.mark.parametrize(
    ("tool", "written"),
    [
        ({"name": "f"}, '"name": "f"'),
        ({"name": "f", "description": None, "parameters": None}, '"name": "f"'),  # as vLLM fills them up
        ({"description": "d", "name": "f"}, '"name": "f", "description": "d"'),
        (
            {
                "parameters": {"b": 1, "a": None},
                "returns": {},
                "strict": True,
                "name": "f",
                "description": "",
            },
            '"name": "f", "description": "", "parameters": {"b": 1, "a": null}',
        ),
    ],
)
def test_a_tool_is_written_in_one_way(tool: dict[str, Any], written: str) -> None:
    for form in ({"type": "function", "function": tool}, {"function": tool, "id": 1}, tool):
        p = protocol("gpt2")
        text = p.decode(p.encode_prompt([ASK], tools=[form]))
        assert f'<tools>\n{{"type": "function", "function": {{{written}}}}}\n</tools>' in text


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        ({"role": "user", "content": 3}, "'int' object is not iterable"),
        ({"role": "user", "content": "\ud83d"}, "TextEncodeInput"),  # half of a character
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "Object of type Undefined"),
        ({"role": "assistant", "tool_calls": ["add"]}, "'str' object has no attribute"),
        ({"role": "user<|im_end|>", "content": "x"}, "role must be system, user, assistant or tool"),
        ({"role": "User", "content": "x"}, "role must be"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "content must be text"),
    ],
)
def test_what_no_turn_can_be_is_refused(message: Any, refusal: str) -> None:
    with pytest.raises(UserError, match=f"^conversation: {refusal}"):
        protocol("gpt2").encode_prompt([message])
