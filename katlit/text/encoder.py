"""Texts as ordinary tokens, and where in the text each of them stands."""

import json
import re
from collections.abc import Mapping, Set
from typing import Any

from tokenizers import Tokenizer, models

Span = tuple[int, int]  # characters [start, end) of a text


class TextEncoder:
    """A twin of a tokenizer without added tokens: encodes any text by ordinary tokens only.

    Text for which the vocabulary itself has a reserved token is broken up, so that it comes out as others.

    Args:
        backend: The tokenizer to imitate; the model is shared, nothing of it is changed.
        reserved: Ids never to be produced, whatever the text.
        unknown: The model's token for what it cannot spell, if there is one.
        continuing: Whether texts continue others, so that none gets the space that SentencePiece-like
            tokenizers put before a text. Else it is put where the tokenizer puts one after a special token.
        kept: Texts that have a token of their own all the same, with its id.
    """

    def __init__(
        self,
        backend: Tokenizer,
        reserved: Set[int],
        unknown: int | None,
        *,
        continuing: bool,
        kept: Mapping[str, int] | None = None,
    ) -> None:
        settings = parts_of(backend)
        for part in ("normalizer", "pre_tokenizer"):
            _drop_prefix(settings[part], continuing=continuing)
        settings["decoder"] = None
        self._tokenizer = Tokenizer.from_str(json.dumps(settings))
        self._tokenizer.model = backend.model
        self._reserved = reserved
        self._unknown = [] if unknown is None or unknown in reserved else [unknown]
        self._kept = dict(kept or {})
        self._marks = re.compile("|".join(map(re.escape, self._kept)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        """Encode a text."""
        return self.locate(text)[0]

    def locate(self, text: str) -> tuple[list[int], list[Span]]:
        """Encode a text; the tokens, and the characters that each was made of."""
        ids: list[int] = []
        spans: list[Span] = []
        done = 0
        for mark in self._marks.finditer(text):
            before, places = self._locate(text[done : mark.start()])
            ids += [*before, self._kept[mark[0]]]
            spans += [*((done + start, done + end) for start, end in places), mark.span()]
            done = mark.end()
        rest, places = self._locate(text[done:])
        return ids + rest, spans + [(done + start, done + end) for start, end in places]

    def _locate(self, text: str) -> tuple[list[int], list[Span]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        spans: list[Span] = encoding.offsets
        if self._reserved.isdisjoint(ids):
            return ids, spans
        cuts = [span for token, span in zip(ids, spans, strict=True) if token in self._reserved]
        return self._locate_apart(text, cuts)

    def _locate_apart(self, text: str, cuts: list[Span]) -> tuple[list[int], list[Span]]:
        """Cut reserved spans after their first character; a span of one is unknown."""
        ids: list[int] = []
        spans: list[Span] = []

        def add(start: int, end: int) -> None:
            more, places = self._locate(text[start:end])
            ids.extend(more)
            spans.extend((start + left, start + right) for left, right in places)

        done = 0
        for start, end in cuts:
            first = min(start, len(text) - 1)
            if first < done:
                continue
            if end - first > 1:
                add(done, first + 1)
            else:
                add(done, first)
                ids += self._unknown
                spans += [(first, first + 1)] * len(self._unknown)
            done = first + 1
        add(done, len(text))
        return ids, spans


def continuation(backend: Tokenizer) -> Tokenizer:
    """Copy a tokenizer so that it encodes a text as the continuation of others.

    Nothing is put before or after the text, the spelling of a special token is text, and the offsets of a
    token hold all of its white space. Added tokens that are not special are kept, as runs of spaces are.
    """
    settings = json.loads(backend.to_str())
    for part in ("normalizer", "pre_tokenizer"):
        _drop_prefix(settings[part], continuing=True)
    settings |= {"post_processor": None, "truncation": None, "padding": None}
    copy = Tokenizer.from_str(json.dumps(settings))
    copy.encode_special_tokens = True
    return copy


def parts_of(backend: Tokenizer) -> dict[str, Any]:
    """The settings of a tokenizer's normalizer, pre-tokenizer and decoder, without its vocabulary."""
    shell = Tokenizer(models.BPE())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        if getattr(backend, part) is not None:
            setattr(shell, part, getattr(backend, part))
    settings: dict[str, Any] = json.loads(shell.to_str())
    return settings


def unknown_id(model: Any) -> int | None:
    """The id that a tokenizer's model gives to what it cannot spell, if it has one."""
    if hasattr(model, "unk_token"):
        return None if model.unk_token is None else model.token_to_id(model.unk_token)
    return json.loads(Tokenizer(model).to_str())["model"].get("unk_id")  # Unigram does not tell otherwise


def _drop_prefix(part: Any, *, continuing: bool) -> None:
    """Change the settings of a normalizer or pre-tokenizer in place, so that texts get no space before them.

    A Metaspace with scheme "first" puts it only before the very first text, and ours follow a special token.
    """
    if not isinstance(part, dict):
        return
    for inner in [*part.get("normalizers", []), *part.get("pretokenizers", [])]:
        _drop_prefix(inner, continuing=continuing)
    if part["type"] == "Metaspace" and (continuing or part["prepend_scheme"] == "first"):
        part["prepend_scheme"] = "never"
    elif part["type"] == "ByteLevel" and continuing:
        part["add_prefix_space"] = False
    elif part["type"] == "Prepend" and continuing:
        part.clear()  # to prepend nothing would give the first character an empty span
        part |= {"type": "Sequence", "normalizers": []}
