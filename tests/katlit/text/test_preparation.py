"""Tokenizers of several kinds, made ready for the protocol."""

import copy
from pathlib import Path

import pytest
from tinytokenizers import BUILDERS, CHAT, SIMPLE, fresh, protocol
from tokenizers import AddedToken
from transformers import AutoTokenizer, ByT5Tokenizer

from katlit.errors import UserError
from katlit.text.parser import MARK_SIGN, TURN_END
from katlit.text.preparation import PAD
from katlit.text.protocol import MARKERS, Protocol, Violation, parse, prepare_tokenizer

EOT, MINE = "<eot>", "<mine>"
every = pytest.mark.parametrize("name", BUILDERS)


@every
def test_markers_are_single_visible_tokens(name: str) -> None:
    tokenizer = fresh(name)
    old = tokenizer.get_vocab()
    assert prepare_tokenizer(tokenizer) == 11 == len(tokenizer) - len(old)
    assert old.items() <= tokenizer.get_vocab().items()
    assert [tokenizer.eos_token, tokenizer.pad_token] == [TURN_END, PAD]
    for marker in MARKERS:
        ids = tokenizer.encode(f"x{marker}\ny<|im_end|>", add_special_tokens=False)
        assert ids.count(protocol(name).marker_ids[marker]) == 1
        shown = tokenizer.decode(ids, skip_special_tokens=True)
        assert marker in shown
        assert "<|im_end|>" not in shown


@every
def test_saved_and_loaded_is_the_same(name: str, tmp_path: Path) -> None:
    tokenizer = protocol(name).tokenizer
    before = tokenizer.backend_tokenizer.to_str()
    assert prepare_tokenizer(tokenizer) == 0
    assert tokenizer.backend_tokenizer.to_str() == before
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert prepare_tokenizer(copy.deepcopy(loaded)) == 0
    assert loaded.backend_tokenizer.to_str() == before
    again = Protocol(loaded)
    for response in SIMPLE:
        assert again.encode_response(response) == protocol(name).encode_response(response)
    assert again.encode_prompt(CHAT, "on") == protocol(name).encode_prompt(CHAT, "on")
    text = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert loaded.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False) == text
    ids = protocol(name).encode_response(SIMPLE[0])
    assert loaded.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True)


@every
def test_a_reply_as_it_is_decoded_can_be_read_and_handed_back(name: str) -> None:
    """Marks are decoded with a sign, which the protocol leaves out."""
    p = protocol(name)
    for response in SIMPLE:
        ids = p.encode_response(response)
        text, shown = p.tokenizer.decode(ids), p.decode(ids)
        assert text.replace(MARK_SIGN, "") == shown
        assert [text.count(f"{MARK_SIGN}{marker}") for marker in MARKERS] == [*map(shown.count, MARKERS)]
        assert parse(text) == parse(shown)
        turns = [[CHAT[1], {"role": "assistant", "content": each}, CHAT[1]] for each in (text, shown)]
        assert p.encode_prompt(turns[0]) == p.encode_prompt(turns[1])


def test_tokens_that_are_there_already_keep_their_ids(tmp_path: Path) -> None:
    tokenizer = fresh("gpt2", bos_token=EOT, eos_token=EOT, unk_token=EOT, pad_token=TURN_END)
    tokenizer.add_tokens([AddedToken("<|im_start|>", normalized=True, rstrip=True)])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<think>", "<other>"]})
    old = tokenizer.get_vocab()
    added = prepare_tokenizer(tokenizer)
    assert added == 8 == len(tokenizer) - len(old)  # seven markers and a pad token of its own
    assert old.items() <= tokenizer.get_vocab().items()
    assert tokenizer.pad_token == PAD
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert each.decode(each.encode("<think><other>"), skip_special_tokens=True) == f"{MARK_SIGN}<think>"
        assert "<think>" not in each.all_special_tokens
    ids = tokenizer.encode("<|im_start|> \n<eot>")
    assert [tokenizer.decode(token) for token in ids] == [f"{MARK_SIGN}<|im_start|>", " ", "\n", "<eot>"]
    assert Protocol(tokenizer).parse_ids(ids).violation is Violation.UNEXPECTED_MARKER
    assert prepare_tokenizer(tokenizer) == 0
    kept = fresh("gpt2", pad_token=MINE)
    assert prepare_tokenizer(kept) == 10
    assert kept.pad_token == MINE


def test_unprepared_tokenizers_are_refused() -> None:
    with pytest.raises(UserError, match=r"tokenizer '': <judge>, .*<\|im_end\|> missing .*prepare_tokenizer"):
        Protocol(fresh("gpt2"))
    tokenizer = copy.deepcopy(protocol("gpt2").tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(UserError, match="chat template is not katlit's"):
        Protocol(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(UserError, match=r"pad_token '<\|im_end\|>'"):
        Protocol(tokenizer)
    with pytest.raises(UserError, match="ByT5Tokenizer is no fast tokenizer"):
        prepare_tokenizer(ByT5Tokenizer())
