"""Which target tokens of two tokenizations of one text correspond; pure functions (recipe §3, ULD).

Two targets are paired where both sides have consumed exactly the same bytes of the same piece of text when
the target starts. Bytes, not characters: a byte-level tokenizer may split one character over several tokens.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from katlit.text.encoder import Span
from katlit.text.spelling import byte_level, sentence_piece


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


def text_piece(name: str, text: str, token_ids: list[int], tokens: list[str], spans: list[Span]) -> Piece:
    """Locate the tokens of a text that was encoded by itself.

    Args:
        name: What the piece is.
        text: Its text.
        token_ids: Its tokens.
        tokens: Their spelling in the vocabulary.
        spans: The characters that each was made of, white space included.
    """
    starts = starts_from_spelling(tokens, text)
    return Piece(name, text, token_ids, tokens, starts_from_spans(spans, text) if starts is None else starts)


def starts_from_spelling(tokens: Sequence[str], text: str) -> list[int | None] | None:
    """Locate tokens by their own bytes; None if the spellings do not add up to the text.

    Understands byte-level vocabularies, SentencePiece ones (a space may be put before the text) and plain
    ones. That they must add up makes a wrong reading impossible.
    """
    target = text.encode()
    for read in (byte_level, sentence_piece, str.encode):
        pieces = [read(token) for token in tokens]
        if any(piece is None for piece in pieces):
            continue
        spelled = [piece for piece in pieces if piece is not None]
        joined = b"".join(spelled)
        if joined == target:
            return _cumulate(spelled, 0)
        if read is sentence_piece and joined == b" " + target:
            return _cumulate(spelled, 1)
    return None


def _cumulate(pieces: Sequence[bytes], prefix: int) -> list[int | None]:
    """Sum lengths; `prefix` bytes came before the text, and a token of nothing else has no start in it."""
    ends = list(accumulate(map(len, pieces)))
    return [
        max(end - len(piece) - prefix, 0) if end > prefix else None
        for end, piece in zip(ends, pieces, strict=True)
    ]


def starts_from_spans(spans: Sequence[Span], text: str) -> list[int | None]:
    """Locate tokens by the characters they were made of; for tokenizers that are not lossless.

    A token has a start only where it begins at the very end of the ones before it. Two kinds of gaps are
    allowed: combining marks, which a normalizer composed with the character before them or dropped, belong
    to the token before; white space that the tokenizer cannot spell belongs to the token after, as it does
    where it is spelled. Elsewhere the prefix is ambiguous (one character normalised into several tokens; one
    of several marks on a letter, for normalizers reorder them and compose the letter with any), and an
    unpaired target is better than a wrong pair.
    """
    starts: list[int | None] = []
    consumed = 0
    for start, end in spans:
        while consumed < start and _is_mark(text[consumed]):
            consumed += 1
        begins = start == consumed or (start > consumed and text[consumed:start].isspace())
        begins = begins and not _splits_marks(text, start)
        starts.append(len(text[:consumed].encode()) if begins and start < end else None)
        consumed = max(consumed, end)
    return starts


def _is_mark(letter: str) -> bool:
    return bool(unicodedata.combining(unicodedata.normalize("NFKD", letter)[0]))


def _splits_marks(text: str, place: int) -> bool:
    """Whether a mark stands there that is not the only one on one plain letter.

    What is written as one letter may hold others and marks of theirs: `á`, `ﬁ`.
    """
    first = last = place
    while last < len(text) and _is_mark(text[last]):
        last += 1
    while 0 < first < last and _is_mark(text[first]):
        first -= 1
    letters = unicodedata.normalize("NFKD", text[first:last])
    return place < last and len(letters) > (1 if _is_mark(letters[0]) else 2)


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
    if (student.tokens, student.starts) == (teacher.tokens, teacher.starts):
        # The same segmentation, even where no start is known.
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
