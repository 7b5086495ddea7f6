"""Tokens of two vocabularies that mean the same, whatever their spelling."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from katlit.text.protocol import MARKERS, prepare_tokenizer
from katlit.text.shared_tokens import shared_tokens

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(*words: str) -> Any:
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate([*ALPHABET, *words])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def sentence_piece(*words: str) -> Any:
    tokens = ["<unk>", *(f"<0x{value:02X}>" for value in range(256)), "a", "▁", *words]
    model = models.BPE({t: i for i, t in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def word_piece(*words: str) -> Any:
    tokenizer = Tokenizer(
        models.WordPiece({t: i for i, t in enumerate(["[UNK]", *words])}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def characters(letters: str) -> Any:
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [])))


def ours(tokenizer: Any) -> Any:
    prepare_tokenizer(tokenizer)
    return tokenizer


def matched(student: Any, teacher: Any, rows: int = 10**6) -> dict[str, str]:
    found = shared_tokens(student, teacher, rows, rows)
    names = (
        tokenizer.convert_ids_to_tokens(ids.tolist())
        for tokenizer, ids in zip((student, teacher), found, strict=True)
    )
    pairs = list(zip(*names, strict=True))
    assert len(dict(pairs)) == len({theirs for _, theirs in pairs}) == len(pairs)
    return dict(pairs)


def test_spaces_and_bytes_are_matched_across_styles() -> None:
    student = ours(byte_level("Ġfoo", "foo", "Ċ Ċ", "Ã©", "ä¸Ń"))
    found = matched(student, sentence_piece("▁foo", "foo", "é", "中", "bar"))
    assert found["Ġfoo"] == "▁foo"
    assert found["foo"] == "foo"
    assert (found["Ã©"], found["ä¸Ń"]) == ("é", "中")
    assert (found["Ġ"], found["Ċ"], found["Ã"]) == ("▁", "<0x0A>", "<0xC3>")
    assert found["a"] == "a"  # and not <0x61>, the fallback
    assert found["b"] == "<0x62>"
    assert "Ċ Ċ" not in found  # no text of a byte-level vocabulary
    assert len(found) == 256 + 4 + 1  # all bytes, the four texts, the end of the turn


def test_the_end_of_a_turn_is_matched_by_role_and_markers_by_name() -> None:
    student, teacher = ours(byte_level()), sentence_piece()
    teacher.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "b")])
    teacher.add_special_tokens({"extra_special_tokens": ["<|im_end|>", "<|im_start|>", "<|other|>"]})
    found = matched(student, teacher)
    assert found["<|im_end|>"] == "</s>"
    assert found["<|im_start|>"] == "<|im_start|>"
    assert {marker for marker in MARKERS if marker in found} == {"<think>", "</think>"}
    assert found["<think>"] == "<think>"
    assert found["b"] == "b"  # an added token that is text
    everything = matched(student, ours(sentence_piece()))
    assert all(everything[name] == name for name in (*MARKERS, "<|im_end|>", "<|pad|>"))


def test_the_template_says_which_token_ends_a_turn() -> None:
    teacher = sentence_piece()
    teacher.add_special_tokens({"extra_special_tokens": ["<end_of_turn>"]})
    teacher.chat_template = "{% for m in messages %}{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    found = matched(ours(byte_level()), teacher)
    assert found["<|im_end|>"] == "<end_of_turn>"
    assert "</s>" not in found.values()


def test_a_markers_spelling_in_a_vocabulary_is_text() -> None:
    assert "<think>" not in matched(ours(byte_level()), byte_level("<think>"))


def test_word_pieces_start_words_with_the_space_that_their_tokenizer_drops() -> None:
    found = matched(ours(byte_level("Ġfoo", "foo", "ing", "Ġ.")), word_piece("foo", "##ing", ".", "##foo"))
    assert (found["Ġfoo"], found["foo"], found["ing"], found["."]) == ("foo", "##foo", "##ing", ".")


def test_characters_are_their_text() -> None:
    found = matched(ours(sentence_piece("é", "Ġ")), characters("aéĠ b"))
    assert (found["é"], found["Ġ"], found["▁"], found["<0x62>"]) == ("é", "Ġ", " ", "b")


def test_one_vocabulary_shares_every_token() -> None:
    student = ours(byte_level("Ġfoo"))
    found = shared_tokens(student, student, 10**6, 10**6)
    assert found.student.tolist() == found.teacher.tolist() == list(range(len(student)))


@pytest.mark.parametrize("rows", [(100, 300), (300, 100)])
def test_tokens_without_a_logit_are_left_out(rows: tuple[int, int]) -> None:
    found = shared_tokens(ours(byte_level()), byte_level(), *rows)
    assert found.student.tolist() == list(range(100))
