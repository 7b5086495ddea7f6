"""Nothing that others write becomes a token of ours, on tokenizers of several kinds."""

import json
from typing import Any

import pytest
from forgeries import FORGERIES, everywhere
from hypothesis import given, settings
from hypothesis import strategies as st
from tinytokenizers import BUILDERS, fresh, protocol
from tokenizers import AddedToken

from katlit.errors import UserError
from katlit.text.encoder import unknown_id
from katlit.text.forgery import escaped, escapes, reserved_tokens
from katlit.text.protocol import Mode, Protocol, Response, prepare_tokenizer

every = pytest.mark.parametrize("name", BUILDERS)
SPELLINGS = ["<judge>", "</judge>", "<think_off>", "<|im_end|>", "</s>", "<tool_call>", "|", "[CLS]", "<unk>"]
CUT = st.sampled_from([part for text in SPELLINGS for part in (text, text[:1], text[1:], text[:-1])])
TEXTS = st.lists(CUT | st.text(max_size=3) | st.sampled_from(["\u2060", "\n"]), max_size=8).map("".join)


def skeleton(p: Protocol, text: str, *, answers: bool = True) -> list[str]:
    """The reserved tokens of a conversation that has a text in every place."""
    turns, tools = everywhere(text, answers=answers)
    reserved = reserved_tokens(p.tokenizer)
    unknown = unknown_id(p.tokenizer.backend_tokenizer.model)
    ids = p.encode_prompt(turns, "off", tools)
    return [reserved[token] for token in ids if token in reserved and token != unknown]


def with_tools_of_its_own() -> Protocol:
    """As Qwen's: tags of calls and control tokens that are not special, runs of spaces, words."""
    tokenizer = fresh("qwen")
    ordinary = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "    ", "hello"]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in ordinary])
    special = ["<|endoftext|>", "[INST]", "<tool_response>", "aa", *(f"<|spare_{i}|>" for i in range(30))]
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    prepare_tokenizer(tokenizer)
    return Protocol(tokenizer)


def test_a_response_has_the_calls_of_the_base() -> None:
    p = with_tools_of_its_own()
    answer = "See:\n<tool_call>\n{}\n</tool_call>"
    ids = p.encode_content(answer)
    assert ids == p.tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert p.tokenizer.convert_tokens_to_ids("<tool_call>") in ids
    found, spans = p.content.locate(answer)
    assert (found, spans[-1][1]) == (ids, len(answer))
    assert "".join(answer[start:end] for start, end in spans) == answer
    assert p.parse_ids(p.encode_response(Response("j", Mode.THINK_OFF, answer))).answer == answer


def test_fifty() -> None:
    assert len(FORGERIES) == len(set(FORGERIES)) == 50


@every
def test_none_of_fifty_forgeries_yields_a_token(name: str) -> None:
    wanted = skeleton(protocol(name), "x")
    assert {text: skeleton(protocol(name), text) for text in FORGERIES} == dict.fromkeys(FORGERIES, wanted)


def test_nor_on_a_tokenizer_with_tools_of_its_own() -> None:
    p = with_tools_of_its_own()
    more = [*FORGERIES, "<|spare_7|><|spare_29|>", "[INST]", "aaaaa", "aaa" * 5 + "<|endoftext|>"]
    wanted = skeleton(p, "x", answers=False)
    assert {text: skeleton(p, text, answers=False) for text in more} == dict.fromkeys(more, wanted)
    assert "<tool_call>" in wanted


@pytest.mark.parametrize("name", ["joins-all", "unigram-always", "llama"])
@settings(max_examples=50)
@given(text=TEXTS)
def test_nothing_that_is_put_together_does(name: str, text: str) -> None:
    assert skeleton(protocol(name), f"{text}x") == skeleton(protocol(name), "x")


@pytest.mark.parametrize("normalized", [True, False])
def test_a_token_that_matched_after_normalization_matches_verbatim(normalized: bool) -> None:
    tokenizer = fresh("unigram-always")
    tokenizer.add_special_tokens({"bos_token": AddedToken("<bos>", normalized=normalized, special=True)})
    prepare_tokenizer(tokenizer)
    p, before = Protocol(tokenizer), tokenizer.backend_tokenizer.to_str()
    assert tokenizer.convert_tokens_to_ids("<bos>") in tokenizer.encode("<bos>")
    assert skeleton(p, "\uff1cbos\uff1e") == skeleton(p, "<bos>") == skeleton(p, "x")
    prepare_tokenizer(tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == before


@every
def test_ordinary_text_is_left_as_it_is(name: str) -> None:
    text = "a < b <b>bold</b> <div> judge think> i <- j |> f x[0] <answer 😀"
    kept = {key: value for key, value in escapes(protocol(name).tokenizer).items() if key != "|"}
    assert escaped(text, kept) == text


def test_added_words_and_runs_of_spaces_are_ordinary_text() -> None:
    p = with_tools_of_its_own()
    ids = p.encode_prompt([{"role": "user", "content": "hello    x"}])
    assert {"hello", "    "} <= set(p.tokenizer.convert_ids_to_tokens(ids))


def test_the_joint_cannot_be_seen_where_the_tokenizer_knows_it() -> None:
    assert escapes(protocol("gpt2").tokenizer)["<judge>"] == "<\u2060judge>"
    assert escapes(protocol("characters").tokenizer)["<judge>"] == "<.judge>"


def test_long_rows_of_numbered_tokens_are_known_by_their_beginning() -> None:
    found = escapes(with_tools_of_its_own().tokenizer)
    assert [key for key in found if "spare" in key] == ["<|spare_"]


def test_a_token_that_cannot_be_kept_apart_is_refused() -> None:
    tokenizer = fresh("gpt2")
    tokenizer.add_special_tokens({"extra_special_tokens": ["end<|"]})
    with pytest.raises(UserError, match=r"special token 'end<\|' ends as"):
        prepare_tokenizer(tokenizer)


def test_arguments_are_json_still() -> None:
    p = protocol("gpt2")
    turns: list[Any] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": "<judge>"}}}]},
    ]
    text = p.decode(p.encode_prompt(turns))
    line = text.split("<tool_call>\n")[1].split("\n</tool_call>")[0]
    assert json.loads(line) == {"name": "f", "arguments": {"a": "<\u2060judge>"}}
