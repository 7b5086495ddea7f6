import itertools
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from katlit.datamodules.dialects.alignment import (
    Piece,
    marker_piece,
    pair_targets,
    starts_from_spans,
    starts_from_spelling,
    text_piece,
)
from katlit.text.encoder import continuation
from katlit.text.protocol import MARKERS

BYTE_LEVEL = ("byte-small", "byte-large", "byte-composing")
FAITHFUL = (*BYTE_LEVEL, "characters", "unigram", "byte-fallback")  # spell what is normalised already
COVERING = (*FAITHFUL, "word-piece")  # know all letters of the texts that they were trained on
KINDS = (*COVERING, "words")
UNKNOWING = ("characters", "word-piece", "words")  # say "[UNK]" of a stretch, which their offsets tell
HARD = [
    "Calculate", " the", "answer ", "5 - 3", "\n", "\r\n", "\t", "  ", "café", "cafe\u0301", "ﬁ½①", "Über",
    "İ", "ẛ̣", "ﬁ\u0301", "👩\u200d👩\u200d👧", "🇫🇷🇯🇵", "👍🏽", "❤\ufe0f", "e\u0301\u0323", "á\u0327", "각",
    "\u1100\u1161\u11a8", "中文", "かが", "\u304b\u3099", "ｶ\uff9e", "क\u093c्षि", "بّ", "Σας",
    "def f(x):\n    return x[-1]", "▁", "Ġ", "<0x0A>", "##er", "\x00", "\u200b", "\u00a0", "\u3000",
    *MARKERS,
]  # fmt: skip
LETTERS = sorted({*"".join(HARD), *map(chr, range(32, 127))})
WORDS = st.lists(st.sampled_from(["the", " ", "answer", "er", " 5", "is\n"]), max_size=8).map("".join)
KNOWN_TEXTS = st.one_of(
    st.text(LETTERS, max_size=20), st.lists(st.sampled_from(HARD), max_size=6).map("".join), WORDS
)
TEXTS = st.one_of(
    st.text(max_size=20), st.lists(st.sampled_from([*HARD, "[UNK]"]), max_size=6).map("".join), WORDS
)
MANY = settings(max_examples=200, deadline=None)
BYTE_OF_LETTER = {letter: byte for byte, letter in bytes_to_unicode().items()}


def nothing(text: str) -> str:
    return text


def metaspace(text: str) -> str:
    return text.replace("▁", " ")


def without_space(text: str) -> str:
    return "".join(text.split())


# What each kind does not tell apart, by the definition of its normalizer; all else counts.
NFC, NFKC = normalizers.NFC(), normalizers.NFKC()
BERT, LOWERCASE = normalizers.BertNormalizer(), normalizers.Lowercase()
LOSSES: dict[str, Callable[[str], str]] = {
    "byte-small": nothing,
    "byte-large": nothing,
    "characters": nothing,
    "byte-composing": NFC.normalize_str,
    "unigram": lambda text: metaspace(NFKC.normalize_str(text)),
    "byte-fallback": metaspace,
    "word-piece": lambda text: without_space(BERT.normalize_str(text)),
    "words": lambda text: without_space(LOWERCASE.normalize_str(text)),
}


class Side(NamedTuple):
    piece: Piece
    read: list[bytes]  # what each token stands for, by the reader below
    knows_all: bool


Encode = Callable[[str, str], Side]


def read(name: str, token: str) -> bytes:
    """The bytes of a token, as its kind of tokenizer defines them."""
    if name in BYTE_LEVEL:
        return bytes(BYTE_OF_LETTER[letter] for letter in token)
    if name == "byte-fallback" and len(token) == 6 and token.startswith("<0x"):
        return bytes.fromhex(token[3:5])
    if name == "word-piece" and len(token) > len("##"):
        token = token.removeprefix("##")
    return (metaspace(token) if name in ("unigram", "byte-fallback") else token).encode()


def encoder(tokenizers: dict[str, Tokenizer]) -> Encode:
    continuations = {name: continuation(tokenizer) for name, tokenizer in tokenizers.items()}

    def encode(name: str, text: str) -> Side:
        tokenizer = continuations[name]
        encoding = tokenizer.encode(text, add_special_tokens=False)
        tokens = [tokenizer.id_to_token(token) for token in encoding.ids]
        unknown = [token == 0 and name not in BYTE_LEVEL for token in encoding.ids]
        # Of the unknown a unigram model tells the text itself; elsewhere the tokenizer's offsets do.
        spelled = [
            text[slice(*span)].encode() if hidden and name in UNKNOWING else read(name, token)
            for token, span, hidden in zip(encoding.tokens, encoding.offsets, unknown, strict=True)
        ]
        piece = text_piece("answer", text, encoding.ids, tokens, encoding.offsets)
        return Side(piece, spelled, not any(unknown))

    return encode


@pytest.fixture(scope="module")
def spell(zoo: dict[str, Tokenizer]) -> Encode:
    """Encode by tokenizers to which most letters are unknown."""
    return encoder(zoo)


@pytest.fixture(scope="module")
def encode(spell: Encode) -> Callable[[str, str], Piece]:
    return lambda name, text: spell(name, text).piece


@pytest.fixture(scope="module")
def spell_all(train: Callable[[str, Sequence[str]], Tokenizer]) -> Encode:
    """Encode by tokenizers that know every letter of the texts, and all that normalizers make of them."""
    letters, marks = {*LETTERS}, [letter for letter in LETTERS if unicodedata.combining(letter)]
    for normalizer in 2 * [NFC, NFKC, normalizers.NFD(), BERT]:
        marked = (letter + mark for letter in letters for mark in marks)
        letters |= {*normalizer.normalize_str("\n".join([*letters, *marked]))}
    corpus = 2 * [*HARD, *(f"a{letter}a" for letter in sorted(letters)), *sorted(letters)]
    return encoder({name: train(name, corpus) for name in COVERING})


def assert_equal_prefixes(left: Side, right: Side, names: tuple[str, str]) -> None:
    pairs = pair_targets([left.piece], [right.piece])
    assert pairs == sorted(pairs)
    assert len({index for index, _ in pairs}) == len({index for _, index in pairs}) == len(pairs)
    for student, teacher in pairs:
        mine, theirs = b"".join(left.read[:student]), b"".join(right.read[:teacher])
        assert told(mine, names) == told(theirs, names), (names, student, teacher)


def told(prefix: bytes, names: tuple[str, str]) -> tuple[str, bytes]:
    """What two kinds can tell of a prefix, and the bytes of a character that it cuts."""
    text = prefix.decode(errors="ignore")
    cut = prefix[len(text.encode()) :]
    for name in 2 * names:
        text = LOSSES[name](text)
    return text, cut


def assert_sound(encode: Encode, kinds: Sequence[str], text: str, *, known: bool) -> None:
    """All pairs of tokenizers, and each with itself."""
    sides = {name: encode(name, text) for name in kinds}
    for names in itertools.combinations(kinds, 2):
        assert_equal_prefixes(sides[names[0]], sides[names[1]], names)
    for name, side in sides.items():
        assert side.knows_all or not known, name
        every = range(len(side.piece.tokens))
        assert pair_targets([side.piece], [side.piece]) == [(index, index) for index in every]
        starts = [start for start in side.piece.starts if start is not None]
        assert starts == sorted(starts)
        assert all(0 <= start < len(text.encode()) for start in starts)


@MANY
@given(text=KNOWN_TEXTS)
def test_paired_targets_follow_equal_prefixes(spell_all: Encode, text: str) -> None:
    assert_sound(spell_all, COVERING, text, known=True)


@MANY
@given(text=TEXTS)
def test_paired_targets_follow_equal_prefixes_where_much_is_unknown(spell: Encode, text: str) -> None:
    assert_sound(spell, KINDS, text, known=False)


def assert_exact(encode: Encode, kinds: Sequence[str], text: str) -> None:
    """Every common prefix is a pair, nothing else is: of tokenizers that spell the text to the byte."""
    sides = {name: encode(name, text) for name in kinds}
    places = {
        name: {b"".join(side.read[:count]): count for count in range(len(side.read))}
        for name, side in sides.items()
    }
    for left, right in itertools.product(kinds, repeat=2):
        expected = [(count, places[right][at]) for at, count in places[left].items() if at in places[right]]
        assert pair_targets([sides[left].piece], [sides[right].piece]) == expected, (left, right)


@MANY
@given(text=TEXTS)
def test_pairs_of_lossless_tokenizers_are_exactly_the_common_prefixes(spell: Encode, text: str) -> None:
    assert_exact(spell, ("byte-small", "byte-large"), text)


@MANY
@given(text=KNOWN_TEXTS)
def test_pairs_in_a_normalised_text_are_exactly_the_common_prefixes(spell_all: Encode, text: str) -> None:
    assert_exact(spell_all, FAITHFUL, metaspace(NFKC.normalize_str(text)))


def test_hard_texts_cost_few_pairs(spell_all: Encode) -> None:
    """However they are normalised."""
    sides = {name: spell_all(name, "the answer ".join(HARD)) for name in COVERING}
    for left, right in itertools.combinations(sides.values(), 2):
        size = min(len(side.piece.tokens) for side in (left, right))
        assert len(pair_targets([left.piece], [right.piece])) > 0.8 * size


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


def test_marks_that_a_normalizer_may_have_moved_have_no_start() -> None:
    """NFC makes `ẹ` and an acute of the first, with these offsets; NFD `a`, cedilla, acute of the second."""
    assert starts_from_spans([(0, 1), (2, 3), (3, 4)], "e\u0301\u0323x") == [0, None, 5]
    assert starts_from_spans([(0, 1), (1, 2), (1, 2), (2, 3)], "á\u0327x") == [0, None, None, 4]
    assert starts_from_spans([(0, 1), (1, 2), (2, 3)], "ﬁ\u0301x") == [0, None, 5]  # NFKC: f, í
    assert starts_from_spans([(0, 1), (2, 3), (3, 4)], "か\u0301\uff9ex") == [0, None, 8]


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
