"""Which tokens of two vocabularies stand for the same, however they are spelled (our choice)."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from tokenizers import models
from torch import Tensor

from katlit.text.encoder import parts_of
from katlit.text.protocol import MARKERS
from katlit.text.rendering import turn_ends
from katlit.text.spelling import METASPACE, byte_level, is_byte, sentence_piece

_Meaning = bytes | str  # a text, or the role of a token that stands for none


class SharedTokens(NamedTuple):
    """Tokens of two vocabularies that mean the same, [S] each, none twice."""

    student: Tensor  # int64, ids of the student
    teacher: Tensor  # int64, the teacher's ids of the same tokens


def shared_tokens(student: Any, teacher: Any, student_rows: int, teacher_rows: int) -> SharedTokens:
    """Match the vocabularies of two fast tokenizers.

    Ordinary tokens are matched by the bytes of text that they stand for: `Ġfoo` of a byte-level vocabulary is
    `▁foo` of a SentencePiece one, and a byte token such as `<0xE4>` the byte-level letter of that byte. A
    WordPiece token that starts a word stands for it with the space before it, which its tokenizer drops.
    Markers and special tokens are matched by name, the tokens that end a turn with each other whatever their
    names.

    Args:
        student: The student's tokenizer.
        teacher: The teacher's.
        student_rows: Length of the student's output head; tokens beyond it have no logit.
        teacher_rows: Length of the teacher's.
    """
    ours, theirs = _meanings(student), _meanings(teacher)
    pairs = sorted((ours[meaning], theirs[meaning]) for meaning in ours.keys() & theirs.keys())
    kept = [(left, right) for left, right in pairs if left < student_rows and right < teacher_rows]
    ids = torch.tensor(kept, dtype=torch.int64).reshape(-1, 2)
    return SharedTokens(ids[:, 0].contiguous(), ids[:, 1].contiguous())


def _meanings(tokenizer: Any) -> dict[_Meaning, int]:
    """What each token means; of several with one meaning the one that the tokenizer would use."""
    found: dict[_Meaning, int] = {}
    for meaning, token_id in [*_roles(tokenizer), *_texts(tokenizer)]:
        found.setdefault(meaning, token_id)
    return found


def _roles(tokenizer: Any) -> Iterator[tuple[_Meaning, int]]:
    """Added tokens: the special ones and the markers by name, the others by their text."""
    ends = turn_ends(tokenizer)[:1]
    for token_id, added in tokenizer.added_tokens_decoder.items():
        if token_id in ends:
            yield "end of turn", token_id
        elif added.special or added.content in MARKERS:
            yield added.content, token_id
        else:
            yield added.content.encode(), token_id


def _texts(tokenizer: Any) -> Iterator[tuple[_Meaning, int]]:
    """Ordinary tokens by id, those that are spelled as a byte last: they are the fallback."""
    read = _reader(tokenizer.backend_tokenizer)
    added = tokenizer.added_tokens_decoder
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    tokens = sorted((is_byte(token), token_id, token) for token, token_id in vocabulary.items())
    for _, token_id, token in tokens:
        text = None if token_id in added else read(token)
        if text:
            yield text, token_id


def _reader(backend: Any) -> Callable[[str], bytes | None]:
    """How the vocabulary of a tokenizer is spelled."""
    if isinstance(backend.model, models.WordPiece):
        prefix = backend.model.continuing_subword_prefix
        return lambda token: _word_piece(token, prefix)
    parts = list(_walk(parts_of(backend)))
    if any(part.get("type") == "ByteLevel" for part in parts):
        return byte_level
    if any(
        METASPACE in (part.get("replacement"), part.get("content"), part.get("prepend")) for part in parts
    ):
        return sentence_piece
    return str.encode


def _word_piece(token: str, prefix: str) -> bytes:
    if token.startswith(prefix):
        return token.removeprefix(prefix).encode()
    return f" {token}".encode() if token.isalnum() else token.encode()


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    """All dictionaries in a tokenizer's settings."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _walk(inner)
