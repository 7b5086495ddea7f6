import itertools
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.alignment import (
    Piece,
    marker_piece,
    pair_targets,
    starts_from_spans,
    starts_from_spelling,
    text_piece,
)
from katlit.protocol import MARKERS
from katlit.text_encoder import continuation

LOSSLESS = ("byte-small", "byte-large")
SPACED = ("byte-small", "byte-composing", "characters", "unigram", "byte-fallback")  # keep white space
KINDS = (*SPACED, "byte-large", "words", "word-piece")
HARD = [
    "Calculate", " the", "answer ", "5 - 3", "\n", "\t", "  ", "café", "cafe\u0301", "ﬁ½①", "Über", "İ", "ẛ̣",
    "👩\u200d👩\u200d👧", "🇫🇷🇯🇵", "👍🏽", "e\u0301\u0323", "각", "\u1100\u1161\u11a8",
    "中文", "かが", "\u304b\u3099",
    "def f(x):\n    return x[-1]", "▁", "Ġ", "<0x0A>", "##er", "[UNK]", "\x00", "\u200b", "\u00a0", "\u3000",
    *MARKERS,
]  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=20),
    st.lists(st.sampled_from(HARD), max_size=6).map("".join),
    st.lists(st.sampled_from(["the", " ", "answer", "er", " 5", "is\n"]), max_size=8).map("".join),
)
CALM = settings(max_examples=20, deadline=None)


@pytest.fixture(scope="module")
def encode(zoo: dict[str, Any]) -> Any:
    encoders = {name: continuation(tokenizer.backend_tokenizer) for name, tokenizer in zoo.items()}

    def piece(name: str, text: str) -> Piece:
        encoding = encoders[name].encode(text, add_special_tokens=False)
        return text_piece("answer", text, encoding.ids, encoding.tokens, encoding.offsets)

    return piece


def spelled(tokenizer: Any, ids: list[int]) -> bytes:
    """Bytes that tokens of a byte-level encoding spell: the backend's own decoder per byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = {letter: byte for byte, letter in bytes_to_unicode().items()}
    return bytes(table[letter] for token in tokenizer.convert_ids_to_tokens(ids) for letter in token)


@CALM
@given(text=TEXTS)
@pytest.mark.parametrize("names", list(itertools.product(LOSSLESS, LOSSLESS)))
def test_pairs_of_lossless_tokenizers_are_exactly_the_common_prefixes(
    zoo: dict[str, Any], encode: Any, names: tuple[str, str], text: str
) -> None:
    left, right = (encode(name, text) for name in names)
    prefixes = [
        {spelled(zoo[name], side.token_ids[:count]): count for count in range(len(side.token_ids))}
        for name, side in zip(names, (left, right), strict=True)
    ]
    expected = [
        (count, prefixes[1][prefix]) for prefix, count in prefixes[0].items() if prefix in prefixes[1]
    ]
    assert pair_targets([left], [right]) == expected


def decode(name: str, tokenizer: Any, ids: list[int]) -> str:
    """The text of tokens; of a character that is cut, nothing (the decoder would drop its neighbours)."""
    if name != "byte-fallback":
        return str(tokenizer.decode(ids)).replace("\ufffd", "")
    tokens = tokenizer.convert_ids_to_tokens(ids)
    read = (bytes([int(t[3:5], 16)]) if t[:3] == "<0x" else t.replace("▁", " ").encode() for t in tokens)
    return b"".join(read).decode(errors="ignore")


def said(name: str, tokenizer: Any, ids: list[int], *, spaces: bool) -> str:
    """What tokens decode to, without what some tokenizer of ours does not tell apart."""
    text = unicodedata.normalize("NFKD", decode(name, tokenizer, ids)).lower()
    text = unicodedata.normalize("NFKD", text).replace("▁", " ")
    kept = [letter for letter in text if unicodedata.category(letter) not in ("Mn", "Cc", "Cf", "Co", "Cn")]
    text = "".join(kept)
    return text.strip(" ") if spaces else "".join(text.split())


@CALM
@given(text=TEXTS)
@pytest.mark.parametrize("names", list(itertools.combinations(KINDS, 2)))
def test_paired_targets_follow_equal_prefixes(
    zoo: dict[str, Any], encode: Any, names: tuple[str, str], text: str
) -> None:
    left, right = (encode(name, text) for name in names)
    pairs = pair_targets([left], [right])
    assert pairs == sorted(pairs)
    assert len({index for index, _ in pairs}) == len({index for _, index in pairs}) == len(pairs)
    spaces = all(name in SPACED or name in LOSSLESS for name in names)
    for student, teacher in pairs:
        assert left.starts[student] == right.starts[teacher] is not None
        before = left.token_ids[:student], right.token_ids[:teacher]
        if not any(0 in ids and name not in LOSSLESS for ids, name in zip(before, names, strict=True)):
            mine, theirs = (
                said(name, zoo[name], ids, spaces=spaces) for name, ids in zip(names, before, strict=True)
            )
            assert mine == theirs
    for side in (left, right):
        known = [start for start in side.starts if start is not None]
        assert known == sorted(known)
        assert all(0 <= start < len(text.encode()) for start in known)


PLAIN_TEXTS = st.lists(st.sampled_from(["the", " ", "answer", "er", " 5", "is", "naive", "-"]), max_size=10)


@CALM
@given(words=PLAIN_TEXTS)
@pytest.mark.parametrize("names", list(itertools.combinations(SPACED, 2)))
def test_no_common_prefix_of_a_plain_text_is_missed(
    zoo: dict[str, Any], encode: Any, names: tuple[str, str], words: list[str]
) -> None:
    text = "a" + "".join(words)
    left, right = (encode(name, text) for name in names)
    lengths = [
        {len(zoo[name].decode(side.token_ids[:count])): count for count in range(len(side.token_ids))}
        for name, side in zip(names, (left, right), strict=True)
    ]
    expected = [(count, lengths[1][size]) for size, count in lengths[0].items() if size in lengths[1]]
    assert pair_targets([left], [right]) == expected


@CALM
@given(text=TEXTS)
@pytest.mark.parametrize("name", KINDS)
def test_one_tokenizer_pairs_every_target(encode: Any, name: str, text: str) -> None:
    side = encode(name, text)
    assert pair_targets([side], [side]) == [(index, index) for index in range(len(side.token_ids))]


def test_characters_against_bytes_pair_whole_characters_only(encode: Any) -> None:
    bytewise, characters = encode("byte-small", "a😀b"), encode("characters", "a😀b")
    last = len(bytewise.tokens) - 1
    assert pair_targets([characters], [bytewise]) == [(0, 0), (1, 1), (2, last)]


def test_a_space_put_before_the_text_is_no_part_of_it() -> None:
    assert starts_from_spelling(["▁He", "llo", "▁you"], "Hello you") == [0, 2, 5]
    assert starts_from_spelling(["▁", "He", "llo"], "Hello") == [None, 0, 2]
    assert starts_from_spelling(["▁a", "<0x0A>", "b"], "a\nb") == [0, 1, 2]


def test_the_first_character_has_its_offsets_where_no_space_is_put_before_it(encode: Any) -> None:
    piece = encode("byte-fallback", " 5▁")  # spelled with two spaces, which do not add up
    assert (piece.tokens, piece.starts) == (["▁", "5", "▁"], [0, 1, 2])


def test_spellings_that_do_not_add_up_are_not_guessed() -> None:
    assert starts_from_spelling(["<unk>", "b"], "ab") is None


def test_dropped_white_space_is_consumed_with_the_token_after_it(encode: Any) -> None:
    assert encode("words", " the answer").starts == [0, 4]
    assert encode("word-piece", "the,  answer").starts == [0, 3, 4]
    assert pair_targets([encode("words", "the answer")], [encode("characters", "the answer")]) == [
        (0, 0),
        (1, 3),
    ]


def test_a_composed_character_is_consumed_with_its_marks() -> None:
    assert starts_from_spans([(0, 1), (2, 3)], "e\u0301x") == [0, 3]
    assert starts_from_spans([(0, 1), (1, 2), (2, 3)], "e\u0301x") == [0, 1, 3]


def test_offsets_that_are_reported_without_white_space_are_not_relied_on(encode: Any) -> None:
    piece = encode("byte-composing", "e\u0301  x")
    assert (piece.tokens, piece.starts) == (["Ã©", "Ġ", "Ġ", "x"], [0, 3, 4, 5])


def test_an_ambiguous_prefix_has_no_start() -> None:
    assert starts_from_spans([(0, 1), (0, 1), (1, 2)], "½x") == [0, None, 2]  # one character, two tokens
    assert starts_from_spans([(0, 2), (0, 1), (1, 2), (2, 3)], "abc") == [0, None, None, 2]
    assert starts_from_spans([(0, 1), (3, 4), (4, 5)], "aXXbc") == [0, None, 4]  # letters dropped


def test_pieces_of_other_names_or_texts_are_not_compared(encode: Any) -> None:
    student = [encode("characters", "ab"), marker_piece("</think>", 7), encode("characters", "cd")]
    teacher = [encode("byte-small", "ab"), encode("byte-small", "cd"), marker_piece("end", 8)]
    # Two pieces of one name pair by occurrence: first with first, second with second.
    assert pair_targets(student, teacher) == [(0, 0), (1, 1), (3, 2), (4, 3)]
    assert pair_targets(student[:1], [encode("byte-small", "abc")]) == []


def test_equal_tokens_of_unequal_extent_are_not_taken_for_one_segmentation() -> None:
    text, tokens = "abb", ["[UNK]", "b"]
    left, right = (
        text_piece("answer", text, [0, 1], tokens, spans) for spans in ([(0, 1), (1, 3)], [(0, 2), (2, 3)])
    )
    assert pair_targets([left], [right]) == [(0, 0)]
