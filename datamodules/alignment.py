"""Which target tokens of two tokenizations of one text correspond; pure functions (recipe §3, ULD).

Two targets are paired where both sides have consumed exactly the same bytes of the same piece of text when
the target starts. Bytes, not characters: a byte-level tokenizer may split one character over several tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE_OF_LETTER = {letter: byte for byte, letter in bytes_to_unicode().items()}
_METASPACE = "▁"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a response that was encoded by itself: the thinking, the answer, or a bit of framing.

    Attributes:
        name: What it is; only pieces of one name and one text are compared.
        text: Its text.
        token_ids: Its tokens.
        tokens: Their spelling in the vocabulary.
        starts: Bytes of `text` consumed when each token starts; None where that is not well defined.
    """

    name: str
    text: str
    token_ids: list[int]
    tokens: list[str]
    starts: list[int | None]


def marker_piece(name: str, token_id: int) -> Piece:
    """Return a piece that is one atomic token on either side, such as `</think>` or the end of the turn."""
    return Piece(name, name, [token_id], [name], [0])


def text_piece(tokenizer: Any, name: str, text: str, token_ids: list[int]) -> Piece:
    """Locate the tokens of a text, encoded by itself."""
    tokens = tokenizer.convert_ids_to_tokens(token_ids)
    starts = starts_from_spelling(tokens, text)
    if starts is None:
        starts = starts_from_offsets(tokenizer, text, token_ids)
    return Piece(name, text, token_ids, tokens, starts)


def starts_from_spelling(tokens: Sequence[str], text: str) -> list[int | None] | None:
    """Locate tokens by their own bytes; None if the spellings do not add up to the text.

    Understands byte-level vocabularies, SentencePiece ones (`▁` is a space, `<0x0A>` a byte, a space may be
    put before the text) and plain ones. That they must add up makes a wrong reading impossible.
    """
    target = text.encode()
    for read in (_byte_level, _sentence_piece, str.encode):
        pieces = [read(token) for token in tokens]
        if any(piece is None for piece in pieces):
            continue
        spelled = [piece for piece in pieces if piece is not None]
        joined = b"".join(spelled)
        if joined == target:
            return _cumulate(spelled, 0)
        if read is _sentence_piece and joined == b" " + target:
            return _cumulate(spelled, 1)
    return None


def _byte_level(token: str) -> bytes | None:
    values = [_BYTE_OF_LETTER.get(letter) for letter in token]
    return None if None in values else bytes(value for value in values if value is not None)


def _sentence_piece(token: str) -> bytes | None:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace(_METASPACE, " ").encode()


def _cumulate(pieces: Sequence[bytes], prefix: int) -> list[int | None]:
    """Sum lengths; `prefix` bytes came before the text, and a token of nothing else has no start in it."""
    ends = list(accumulate(map(len, pieces)))
    return [
        max(end - len(piece) - prefix, 0) if end > prefix else None
        for end, piece in zip(ends, pieces, strict=True)
    ]


def starts_from_offsets(tokenizer: Any, text: str, token_ids: list[int]) -> list[int | None]:
    """Locate tokens by the offsets that a fast tokenizer reports; for tokenizers that are not lossless.

    A token has a start only where it begins at the very end of the one before it. Elsewhere the prefix is
    ambiguous (dropped white space, one character normalised into several tokens, trimmed offsets), and an
    unpaired target is better than a wrong pair.
    """
    unknown: list[int | None] = [None] * len(token_ids)
    if not tokenizer.is_fast:
        return unknown
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if encoding["input_ids"] != token_ids:
        return unknown
    starts: list[int | None] = []
    consumed = 0
    for start, end in encoding["offset_mapping"]:
        starts.append(len(text[:start].encode()) if start == consumed < end else None)
        consumed = max(consumed, end)
    return starts


def pair_targets(student: Sequence[Piece], teacher: Sequence[Piece]) -> list[tuple[int, int]]:
    """Pair the tokens of two responses to one prompt.

    Returns:
        Index pairs (student, teacher) into the concatenated tokens of the pieces, ascending on both sides.
    """
    places = _places(teacher)
    pairs: list[tuple[int, int]] = []
    position = 0
    for piece, occurrence in _numbered(student):
        found = places.get((piece.name, piece.text, occurrence))
        if found is not None:
            other, other_position = found
            pairs += [(position + left, other_position + right) for left, right in _pair_within(piece, other)]
        position += len(piece.token_ids)
    return pairs


def _places(pieces: Sequence[Piece]) -> dict[tuple[str, str, int], tuple[Piece, int]]:
    positions = [0, *accumulate(len(piece.token_ids) for piece in pieces)]
    return {
        (piece.name, piece.text, occurrence): (piece, position)
        for (piece, occurrence), position in zip(_numbered(pieces), positions, strict=False)
    }


def _numbered(pieces: Sequence[Piece]) -> list[tuple[Piece, int]]:
    names = [piece.name for piece in pieces]
    return [(piece, names[:index].count(piece.name)) for index, piece in enumerate(pieces)]


def _pair_within(student: Piece, teacher: Piece) -> list[tuple[int, int]]:
    if student.tokens == teacher.tokens:  # the same segmentation, even where no start is known
        return [(index, index) for index in range(len(student.tokens))]
    first_at: dict[int, int] = {}
    for index, start in enumerate(teacher.starts):
        if start is not None:
            first_at.setdefault(start, index)
    taken: set[int] = set()
    pairs = []
    for index, start in enumerate(student.starts):
        if start is not None and start in first_at and start not in taken:
            taken.add(start)
            pairs.append((index, first_at[start]))
    return pairs
