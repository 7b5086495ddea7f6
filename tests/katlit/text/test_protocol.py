"""Prompts and responses as token ids, on tokenizers of several kinds."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinytokenizers import BUILDERS, CHAT, SIMPLE, protocol

from katlit.text.chat_template import FORCED_JUDGES
from katlit.text.protocol import (
    MARKERS,
    Mode,
    Response,
    Violation,
    parse,
    render,
)

EOT, MINE = "<eot>", "<mine>"
LOSSLESS = ("gpt2", "qwen", "joins-all", "prefix-space")
ALIKE = [name for name in BUILDERS if name != "joins-all"]  # its tokens cross the borders of contents
every = pytest.mark.parametrize("name", BUILDERS)
lossless = pytest.mark.parametrize("name", LOSSLESS)
thinking_modes = pytest.mark.parametrize("thinking", ["auto", "on", "off"])


MARKS = (*MARKERS, "<|im_start|>", "<|im_end|>", "<|pad|>", "</s>", "<unk>", "[CLS]", "|")
TEXTS = st.lists(
    st.text(max_size=5) | st.sampled_from([*MARKS, "\n", "\n\n", " ", "\r\n", "😀", "the user", "."]),
    max_size=8,
).map("".join)
ON = st.builds(Response, TEXTS, st.just(Mode.THINK_ON), TEXTS, TEXTS)
RESPONSES = ON | st.builds(Response, TEXTS, st.just(Mode.THINK_OFF), TEXTS)


def fields(found: Any) -> tuple[str, Mode | None, str, str | None]:
    return found.judge, found.mode, found.think, found.answer


@pytest.mark.parametrize("name", ALIKE)
@thinking_modes
def test_prompts_have_the_tokens_of_the_template(name: str, thinking: Any) -> None:
    tokenizer = protocol(name).tokenizer
    served = tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, thinking=thinking, return_dict=False
    )
    assert protocol(name).encode_prompt(CHAT, thinking) == served


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("response", SIMPLE)
def test_responses_have_the_tokens_of_the_text(name: str, response: Response) -> None:
    p = protocol(name)
    truth = p.tokenizer.encode(render(response), add_special_tokens=False)
    opening = p.tokenizer.encode("<judge>\n", add_special_tokens=False)
    assert opening + p.encode_response(response) == truth
    forced = p.forced_prefill(response.mode)
    assert p.encode_prompt(CHAT, response.mode.value) == p.encode_prompt(CHAT) + forced
    assert truth[-len(p.encode_response(response, response.mode.value)) :] == p.encode_response(
        response, response.mode.value
    )


# --- contents


@every
@given(text=TEXTS)
def test_content_is_never_an_added_token(name: str, text: str) -> None:
    p = protocol(name)
    ids = p.encode_content(text)
    unknown = {"<unk>", "[UNK]"}
    assert not {p.tokenizer.convert_ids_to_tokens(i) for i in ids} & (
        {*p.tokenizer.added_tokens_encoder} - unknown
    )
    if name in LOSSLESS:
        assert p.decode(ids) == text


def test_spellings_of_reserved_tokens_are_broken_up() -> None:
    p = protocol("unigram-always")
    assert p.tokenizer.convert_tokens_to_ids("</s>") in p.tokenizer.encode("a</s>")
    assert p.decode(p.encode_content("a</s>b" * 2000)) == "a</s>b" * 2000  # no deep recursion either
    assert p.decode(p.encode_content("a|b||")) == "a<unk>b<unk>"  # one character cannot be taken apart


def test_a_protocol_can_be_copied() -> None:
    twin = copy.deepcopy(protocol("llama"))
    assert twin.encode_prompt(CHAT, "on") == protocol("llama").encode_prompt(CHAT, "on")


# --- round trip and violations


@lossless
@given(response=RESPONSES)
def test_round_trip_on_ids(name: str, response: Response) -> None:
    p = protocol(name)
    ids = p.encode_response(response)
    found = p.parse_ids(ids)
    assert found.valid
    assert fields(found) == fields(response)
    assert ids[-1] == p.end_id
    assert p.parse_ids(ids[:-1]) == found
    forced = p.encode_response(response, response.mode.value)
    assert fields(p.parse_ids(forced, response.mode.value)) == (
        FORCED_JUDGES[response.mode], *fields(response)[1:],
    )  # fmt: skip
    judged = p.judge_length(ids)
    assert ids[judged - 1] == p.marker_ids[response.mode.marker]
    assert ids[judged:] == forced


@every
@pytest.mark.parametrize("response", SIMPLE)
def test_simple_words_survive_every_tokenizer(name: str, response: Response) -> None:
    p = protocol(name)
    found = p.parse_ids(p.encode_response(response))
    assert found.valid
    assert [" ".join(str(field).split()) for field in fields(found)] == [
        " ".join(str(field).split()) for field in fields(response)
    ]


def test_the_mode_forced_and_the_mode_given_must_agree() -> None:
    with pytest.raises(ValueError, match="thinking is 'on', but the response's mode is 'off'"):
        protocol("gpt2").encode_response(SIMPLE[1], "on")


def test_line_breaks_that_a_model_joins_are_read_alike() -> None:
    p = protocol("qwen")
    joined = p.tokenizer.encode("so it is.\n</judge>\n\n<think_off>\n\n<answer>\n\n\n7.\n</answer>")
    assert p.tokenizer.convert_tokens_to_ids("ĊĊ") in joined
    assert fields(p.parse_ids(joined)) == ("so it is.", Mode.THINK_OFF, "", "\n\n7.")


@pytest.mark.parametrize("name", ["gpt2", "qwen", "joins-all"])
@given(
    parts=st.lists(
        st.sampled_from([*MARKERS, "<|im_start|>", "<|im_end|>", "\n", " a b", "x\n"]), max_size=14
    )
)
@pytest.mark.parametrize("truncated", [False, True])
def test_ids_and_text_have_the_same_violations(name: str, parts: list[str], truncated: bool) -> None:
    p = protocol(name)
    text = "".join(parts)
    if text.lstrip().startswith("<judge>"):  # opens a text, but never what is generated
        return
    ids = p.tokenizer.encode(text, add_special_tokens=False)
    assert p.parse_ids(ids, truncated=truncated) == parse(text, truncated=truncated)


@pytest.mark.parametrize(
    ("text", "thinking", "violation"),
    [
        ("\n\n<answer>\na\n</answer><|im_end|>", "off", None),
        ("\n<think>\nt\n</think>\n\n<answer>\na\n</answer>", "on", None),
        ("\n<think>\nt\n</think>\n\n<answer>\na\n</answer>", "off", Violation.THINK_AFTER_THINK_OFF),
        ("\n\n<answer>\na\n</answer><|im_end|>", "on", Violation.MISSING_THINK),
        ("\n<think_on>\n<think>", "on", Violation.DUPLICATE_MODE),
        ("", "off", Violation.MISSING_ANSWER),
    ],
)
def test_forced_modes_are_read_from_after_the_marker(text: str, thinking: Any, violation: Any) -> None:
    found = protocol("gpt2").parse_ids(protocol("gpt2").tokenizer.encode(text), thinking)
    assert found.violation is violation
    assert (found.judge, found.mode) == (FORCED_JUDGES[Mode(thinking)], Mode(thinking))


def test_a_special_token_out_of_place_is_a_violation() -> None:
    p = protocol("gpt2")
    ids = p.encode_response(SIMPLE[1])
    found = p.parse_ids([*ids[:-3], p.pad_id, *ids[-3:]])
    assert found.violation is Violation.UNEXPECTED_MARKER
    assert found.answer == "the answer<|pad|>"


def test_the_judge_segment_without_a_mode_is_everything() -> None:
    p = protocol("gpt2")
    assert p.judge_length(p.encode_content("never comes to it")) == len(p.encode_content("never comes to it"))
    assert p.judge_length([]) == 0
