import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.alignment import Piece, marker_piece, pair_targets, starts_from_spelling, text_piece

LOSSLESS = ("byte-small", "byte-large")
KINDS = ("byte-small", "byte-large", "characters", "unigram", "words")
TEXTS = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="ab 1+=\n é😀ﬁ", max_size=30),
    st.lists(st.sampled_from(["Calculate", " the", "answer ", "5 - 3", "\n", "café", "  "])).map("".join),
)
CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def piece(tokenizer: Any, text: str) -> Piece:
    return text_piece(tokenizer, "answer", text, tokenizer(text, add_special_tokens=False)["input_ids"])


def consumed(tokenizer: Any, ids: list[int], count: int) -> bytes:
    """Bytes that the first tokens of a byte-level encoding spell: the backend's own decoder per byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = {letter: byte for byte, letter in bytes_to_unicode().items()}
    return bytes(table[letter] for token in tokenizer.convert_ids_to_tokens(ids[:count]) for letter in token)


@CALM
@given(text=TEXTS)
@pytest.mark.parametrize("names", list(itertools.product(LOSSLESS, LOSSLESS)))
def test_pairs_of_lossless_tokenizers_are_exactly_the_common_prefixes(
    zoo: dict[str, Any], names: tuple[str, str], text: str
) -> None:
    left, right = (piece(zoo[name], text) for name in names)
    prefixes = [
        {consumed(zoo[name], side.token_ids, count): count for count in range(len(side.token_ids))}
        for name, side in zip(names, (left, right), strict=True)
    ]
    expected = [
        (count, prefixes[1][prefix]) for prefix, count in prefixes[0].items() if prefix in prefixes[1]
    ]
    assert pair_targets([left], [right]) == expected


@CALM
@given(text=TEXTS)
@pytest.mark.parametrize("names", list(itertools.combinations(KINDS, 2)))
def test_no_pair_skips_text_on_either_side(zoo: dict[str, Any], names: tuple[str, str], text: str) -> None:
    left, right = (piece(zoo[name], text) for name in names)
    pairs = pair_targets([left], [right])
    assert pairs == sorted(pairs)
    assert len({index for index, _ in pairs}) == len({index for _, index in pairs}) == len(pairs)
    for student, teacher in pairs:
        assert left.starts[student] == right.starts[teacher] is not None
    for side in (left, right):
        known = [start for start in side.starts if start is not None]
        assert known == sorted(known)
        assert all(0 <= start < len(text.encode()) for start in known)


@CALM
@given(text=TEXTS)
@pytest.mark.parametrize("name", KINDS)
def test_one_tokenizer_pairs_every_target(zoo: dict[str, Any], name: str, text: str) -> None:
    side = piece(zoo[name], text)
    assert pair_targets([side], [side]) == [(index, index) for index in range(len(side.token_ids))]


def test_characters_against_bytes_pair_whole_characters_only(zoo: dict[str, Any]) -> None:
    bytewise, characters = piece(zoo["byte-small"], "a😀b"), piece(zoo["characters"], "a😀b")
    spelled = zoo["byte-small"].convert_ids_to_tokens(bytewise.token_ids)
    last = len(spelled) - 1
    assert pair_targets([characters], [bytewise]) == [(0, 0), (1, 1), (2, last)]


def test_a_space_put_before_the_text_is_no_part_of_it() -> None:
    assert starts_from_spelling(["▁He", "llo", "▁you"], "Hello you") == [0, 2, 5]
    assert starts_from_spelling(["▁", "He", "llo"], "Hello") == [None, 0, 2]
    assert starts_from_spelling(["▁a", "<0x0A>", "b"], "a\nb") == [0, 1, 2]


def test_spellings_that_do_not_add_up_are_not_guessed() -> None:
    assert starts_from_spelling(["<unk>", "b"], "ab") is None


def test_dropped_white_space_leaves_targets_unpaired(zoo: dict[str, Any]) -> None:
    assert piece(zoo["words"], "the answer").starts == [0, None]
    assert piece(zoo["words"], "the,answer").starts == [0, 3, 4]


def test_pieces_of_other_names_or_texts_are_not_compared(zoo: dict[str, Any]) -> None:
    student = [piece(zoo["characters"], "ab"), marker_piece("</think>", 7), piece(zoo["characters"], "cd")]
    teacher = [piece(zoo["byte-small"], "ab"), piece(zoo["byte-small"], "cd"), marker_piece("end", 8)]
    # Two pieces of one name pair by occurrence: first with first, second with second.
    assert pair_targets(student, teacher) == [(0, 0), (1, 1), (3, 2), (4, 3)]
    assert pair_targets(student[:1], [piece(zoo["byte-small"], "abc")]) == []
