"""What transformers makes of a response by the template that the checkpoint brings."""

from typing import Any

import pytest
from tinytokenizers import protocol
from transformers import PreTrainedTokenizerFast

from katlit.text.protocol import Mode, Response, render
from katlit.text.tool_calls import ToolCall, join_answer

EARLIER = [{"role": "assistant", "content": "7"}, {"role": "user", "content": "And </think>?"}]
RESPONSES = [
    Response("It takes steps", Mode.THINK_ON, answer="12\n\n* two\n* lines", think="3 + 4 = 7\n\n<answer> 7"),
    Response("Short", Mode.THINK_OFF, answer="The answer is `</answer>` or 7."),
]
CALLS = [ToolCall("add", {"a": 1, "b": "é </judge> }"}), ToolCall("now", {})]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return protocol("gpt2").tokenizer


def opened(tokenizer: PreTrainedTokenizerFast, mode: str) -> str:
    turns = [{"role": "user", "content": "What is 3 + 4? <answer> is where?"}, *EARLIER]
    return str(
        tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, thinking=mode)
    )


def both(tokenizer: PreTrainedTokenizerFast, mode: str, text: str) -> dict[str, Any]:
    """The message, the same at once and in a stream that brings one character at a time."""
    prompt = opened(tokenizer, mode)
    message: dict[str, Any] = tokenizer.parse_response(text, prefix=prompt)
    streamed = parsed_in_pieces(tokenizer, prompt, text)
    for name in ("thinking", "content"):
        assert streamed.get(name, "").strip() == message.get(name, "")
    return message


def parsed_in_pieces(tokenizer: PreTrainedTokenizerFast, prompt: str, text: str) -> dict[str, str]:
    """The message of a stream that brings one character at a time."""
    stream = tokenizer.get_response_parser(prefix=prompt)
    found: dict[str, str] = {}
    events = stream.initial_events + [event for character in text for event in stream.feed(character)]
    for event in [*events, *stream.finalize()[1]]:
        if event["type"] == "region_chunk":
            found[event["field"]] = found.get(event["field"], "") + event["text"]
    return found


@pytest.mark.parametrize("end", ["", "<|im_end|>"])
@pytest.mark.parametrize("response", RESPONSES, ids=lambda response: response.mode.value)
@pytest.mark.parametrize("thinking", ["auto", "forced"])
def test_the_checkpoint_splits_its_own_responses(
    tokenizer: PreTrainedTokenizerFast, response: Response, thinking: str, end: str
) -> None:
    mode = "auto" if thinking == "auto" else response.mode.value
    whole = render(response).removesuffix("<|im_end|>") + end
    text = whole.removeprefix("<judge>\n")
    if thinking == "forced":
        text = whole.partition(response.mode.marker)[2]
    wanted = {"thinking": response.think, "content": response.answer}
    wanted = {name: value for name, value in wanted.items() if value}
    assert both(tokenizer, mode, text) == wanted


def functions(calls: list[ToolCall]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": call._asdict()} for call in calls]


@pytest.mark.parametrize("end", ["", "<|im_end|>"])
@pytest.mark.parametrize("text", ["", "Let me see.\n"])
@pytest.mark.parametrize("think", ["", "hm"])
def test_calls_of_tools_are_split_off(
    tokenizer: PreTrainedTokenizerFast, think: str, text: str, end: str
) -> None:
    mode = Mode.THINK_ON if think else Mode.THINK_OFF
    response = Response("j", mode, join_answer(text.strip(), CALLS), think)
    whole = render(response).removesuffix("<|im_end|>") + end
    wanted = {"thinking": think, "content": text.strip(), "tool_calls": functions(CALLS)}
    wanted = {name: value for name, value in wanted.items() if value}
    assert both(tokenizer, "auto", whole.removeprefix("<judge>\n")) == wanted
    assert both(tokenizer, mode.value, whole.partition(mode.marker)[2]) == wanted


CODE = "```xml\n<answer>\n1\n</answer>\n```\nEnd with `</answer>`"
ON = "j\n</judge>\n\n<think_on>\n<think>\nhm\n</think>\n\n<answer>\n"
OFF = "j\n</judge>\n\n<think_off>\n\n<answer>\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # a line of code is no end
        (f"{OFF}{CODE}\n</answer>", {"content": CODE}),
        (f"{ON}{CODE}\n</answer><|im_end|>", {"thinking": "hm", "content": CODE}),
        # cut within the judge, the thinking, the answer, a call
        ("", {}),
        ("It takes", {}),
        ("It takes\n</judge>", {}),
        ("It takes\n</judge>\n\n<think_on>", {}),
        (ON.partition("m\n</think>")[0], {"thinking": "h"}),
        (f"{ON}ha", {"thinking": "hm", "content": "ha"}),
        (f"{OFF}ha", {"content": "ha"}),
        (f"{OFF}ha\n</answer>", {"content": "ha"}),
        (
            f'{OFF}ha\n<tool_call>\n{{"na',
            {"content": "ha", "tool_calls": [{"type": "function", "function": '{"na'}]},
        ),
        # against the rules
        ("j<|im_end|>", {}),
        ("j\n</judge>\n\n<answer>\nha\n</answer>", {"content": "ha"}),
        (f"{OFF}ha</answer>", {"content": "ha"}),
        (f"{OFF}ha\n</answer>x<think_off><|im_end|>", {"content": "ha"}),
        (f"{OFF}ha<|im_end|>", {"content": "ha"}),
        (
            f"{OFF}<tool_call>\nadd(1)\n</tool_call>\n</answer>",
            {"tool_calls": [{"type": "function", "function": "add(1)"}]},
        ),
    ],
)
def test_what_is_cut_or_broken(tokenizer: PreTrainedTokenizerFast, text: str, wanted: dict[str, Any]) -> None:
    assert both(tokenizer, "auto", text) == wanted


@pytest.mark.parametrize(
    ("thinking", "text", "wanted"),
    [
        pytest.param(
            "on", "\n<think>\n</think>\n\n<answer>\n7\n</answer>", {"content": "7"}, id="budget of 0"
        ),
        pytest.param("off", "\n\n<answer>\n7\n<|im_end|>", {"content": "7"}, id="grammar with a line break"),
        pytest.param("off", "\n\n<answer>\n7\n", {"content": "7"}, id="grammar with a line break, vLLM"),
        pytest.param("off", "\n\n<answer>\n7<|im_end|>", {"content": "7"}, id="grammar without"),
        pytest.param("auto", "It takes several", {}, id="cut judge"),
        pytest.param("auto", "It is easy\n</judge>\n\n<think_on>", {}, id="cut after the judge"),
    ],
)
def test_what_servers_do_to_replies(
    tokenizer: PreTrainedTokenizerFast, thinking: str, text: str, wanted: dict[str, str]
) -> None:
    assert both(tokenizer, thinking, text) == wanted
