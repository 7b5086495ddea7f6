"""What transformers makes of a response by the template that the checkpoint brings."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinytokenizers import protocol
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from katlit.text.parser import MARK_SIGN, MARKS
from katlit.text.protocol import TURN_END, Mode, Response
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


def signed(text: str) -> str:
    """As marks are decoded; «answer» is text that spells one."""
    names = "|".join(map(re.escape, MARKS))
    return re.sub(names, rf"{MARK_SIGN}\g<0>", text).replace("«", "<").replace("»", ">")


def both(tokenizer: PreTrainedTokenizerFast, mode: str, text: Sequence[str]) -> dict[str, Any]:
    """The message, the same at once and in a stream that brings one piece at a time."""
    prompt = opened(tokenizer, mode)
    message: dict[str, Any] = tokenizer.parse_response("".join(text), prefix=prompt)
    decoded = tokenizer.decode(tokenizer(prompt)["input_ids"])
    assert tokenizer.parse_response("".join(text), prefix=decoded) == message
    for start in (prompt, decoded):
        streamed, whole = (parsed_in_pieces(tokenizer, start, pieces) for pieces in (text, ["".join(text)]))
        assert streamed == whole
        for name in ("thinking", "content"):
            assert whole.get(name, "").strip() == message.get(name, "")
    return message


def decoded(tokenizer: PreTrainedTokenizerFast, response: Response, mode: Any, end: str) -> str:
    """A reply as a server hands it to the template; most leave the end of the turn out."""
    ids = protocol("gpt2").encode_response(response, mode)
    return tokenizer.decode(ids).removesuffix(f"{MARK_SIGN}{TURN_END}") + signed(end)


def parsed_in_pieces(
    tokenizer: PreTrainedTokenizerFast, prompt: str, pieces: Sequence[str]
) -> dict[str, str]:
    """The message of a stream."""
    stream = tokenizer.get_response_parser(prefix=prompt)
    found: dict[str, str] = {}
    events = stream.initial_events + [event for piece in pieces for event in stream.feed(piece)]
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
    text = decoded(tokenizer, response, mode, end)
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
    wanted = {"thinking": think, "content": text.strip(), "tool_calls": functions(CALLS)}
    wanted = {name: value for name, value in wanted.items() if value}
    for thinking in ("auto", mode.value):
        assert both(tokenizer, thinking, decoded(tokenizer, response, thinking, end)) == wanted


CODE = "```xml\n<answer>\n1\n</answer>\n```\n<judge>\nEnd with `<|im_end|>`, \n<think>\n\n</answer>"
SPELLED = CODE.replace("<", "«").replace(">", "»")
ON = "j\n</judge>\n\n<think_on>\n<think>\nhm\n</think>\n\n<answer>\n"
OFF = "j\n</judge>\n\n<think_off>\n\n<answer>\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # a line of code is no end
        (f"{OFF}{SPELLED}\n</answer>", {"content": CODE}),
        (f"{ON}{SPELLED}\n</answer><|im_end|>", {"thinking": "hm", "content": CODE}),
        # cut within the judge, the thinking, the answer, a call
        ("", {}),
        ("It takes", {}),
        ("It takes\n</judge>", {}),
        ("It takes\n</judge>\n\n<think_on>", {}),
        (ON.partition("m\n</think>")[0], {"thinking": "h"}),
        (ON.partition("\n\n<answer>")[0], {"thinking": "hm"}),
        (ON.partition("\n<answer>")[0], {"thinking": "hm"}),
        (f"{ON}ha", {"thinking": "hm", "content": "ha"}),
        (f"{OFF}ha", {"content": "ha"}),
        (f"{OFF}ha\n</answer>", {"content": "ha"}),
        (
            f'{OFF}ha\n<tool_call>\n{{"na',
            {"content": "ha", "tool_calls": [{"type": "function", "function": '{"na'}]},
        ),
        # against the rules
        ("j<|im_end|>", {}),
        (f"{ON.partition('</think>')[0]}<|im_end|>", {"thinking": "hm"}),
        (f"{ON}ha\n<judge>\nj\n</judge>\n\n<think_on>\n<think>\nx", {"thinking": "hm", "content": "ha"}),
        (f"{ON}ha\n</answer>\n\n<answer>\nho\n</answer>", {"thinking": "hm", "content": "ha"}),
        (f"{ON.replace('<answer>', 'so<answer>')}ha\n</answer>", {"thinking": "hm", "content": "ha"}),
        (f'{OFF}<tool_call>\n{{"na</answer>', {"tool_calls": [{"type": "function", "function": '{"na'}]}),
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
    assert both(tokenizer, "auto", signed(text)) == wanted


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
    assert both(tokenizer, thinking, signed(text)) == wanted


def spoken(tokenizer: PreTrainedTokenizerFast, prompt: list[int], ids: list[int]) -> list[str]:
    """The pieces that vLLM's detokenizer makes of a reply."""
    stream = DecodeStream(ids=prompt, skip_special_tokens=False)
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    pieces, before = [], False
    for token in ids:
        piece = stream.step(tokenizer.backend_tokenizer, token) or ""
        pieces.append(added[token] if token in added and before else piece)
        before = token in added
    return pieces


def answer_in(parts: list[str], mode: str) -> str:
    """What stands between the first `<answer>` that counts and the next mark."""
    state, answer = ("thinking" if mode == "off" else "judge"), ""
    for part in parts:
        if state == "answer":
            if part in MARKS:
                break
            answer += part.replace("«", "<").replace("»", ">")
        elif part == "<answer>":
            state = "answer"
        elif state == "judge" and part in ("<think>", "<think_off>"):
            state = "thinking"
    return answer.removeprefix("\n").removesuffix("\n").strip()


TEXTS = ["7", " ", "\n", "\n\n", "x «/answer» y", "a\n«/answer»\nb", "b «judge»\nb", "`«think»`"]
ENDS = ["\n</think>\n\n<answer>\n", "7\n</answer><|im_end|>", "a «|im_end|»."]
SHAPES = ["j\n</judge>\n\n", "<think_on>\n<think>\n", "<think_off>\n\n<answer>\n", *ENDS]
SPELLINGS = re.compile(r"</answer>(?= y|\nb)|<judge>(?=\nb)|(?<=`)<think>(?=`)|(?<=a )<\|im_end\|>(?=\.)")
# What follows a call is kept by vLLM, but of two contents transformers keeps the last.
CALL = '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n</answer>'


def parts_of(shape: str) -> list[str]:
    return [part for part in re.split(f"({'|'.join(map(re.escape, MARKS))})", shape) if part]


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
@settings(max_examples=60)
@given(shapes=st.lists(st.sampled_from([*MARKS, *SHAPES, *TEXTS, CALL]), max_size=12), cut=st.integers(0, 20))
def test_no_mark_is_ever_content(mode: str, shapes: list[str], cut: int) -> None:
    """Whatever the policy writes, in whatever pieces it comes, in plain transformers and in vLLM."""
    p = protocol("gpt2")
    parts = parts_of("".join(shapes))[: 20 - cut]
    plain = [part.replace("«", "<").replace("»", ">") for part in parts]
    ids = [
        token
        for part, text in zip(parts, plain, strict=True)
        for token in ([p.token_id(part)] if part in MARKS else p.encode_content(text))
    ]
    prompt = p.tokenizer(opened(p.tokenizer, mode))["input_ids"]
    message = both(p.tokenizer, mode, p.tokenizer.decode(ids))
    served = both(p.tokenizer, mode, spoken(p.tokenizer, prompt, ids))
    for content in (message.get("content", ""), served.get("content", "")):
        unspelled = SPELLINGS.sub("", content)
        assert not any(mark in unspelled for mark in (*MARKS, MARK_SIGN))
    if CALL not in shapes:
        assert message.get("content", "") == answer_in(parts, mode)
    # vLLM writes a mark that stands right behind another one without its sign.
    apart = not any(left in MARKS and right in MARKS for left, right in pairwise(parts))
    assert served == message or not apart
