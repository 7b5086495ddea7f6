"""What foreign text must not spell in a prompt, and what is written in its place (our choice).

A server renders a conversation as one text and tokenizes that, and wherever the text spells an added token,
it gets that token: a user could write `</judge>` or open a turn of the system. So the chat template puts a
joint, a character that is invisible where the tokenizer knows such a one, after the first character of each
such spelling. The list depends on the tokenizer: its special tokens, the markers, the tags of tools, and
whatever else is spelled as a control token. Words and runs of spaces that a tokenizer adds are ordinary text.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from katlit.errors import UserError
from katlit.text.encoder import parts_of, unknown_id
from katlit.text.parser import MARKERS, TURN_END, TURN_START
from katlit.text.tool_calls import TOOL_TAGS

JOINTS = ("\u2060", "\u200d", "\u00b7", "\\", ".", " ")  # the word joiner first
NOTHING = "\ufffd"  # in place of a token of one character, which cannot be taken apart

_CONTROL = re.compile(r"<[|\uff5c].+[|\uff5c]>|\[/?[A-Z_]+\]|</?\w*_\w*>", re.DOTALL)
_NUMBERED = re.compile(r"(.*?\D)\d+\W*", re.DOTALL)
_FAMILY = 9  # so many tokens that differ in a number only are kept out by what they begin with


def reserved_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The added tokens that only a template may write, by id.

    Args:
        tokenizer: A prepared one.
    """
    named = {*MARKERS, TURN_START, TURN_END, *TOOL_TAGS}
    return {
        token_id: token.content
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip()
        and (token.special or token.content in named or _CONTROL.fullmatch(token.content))
    }


def escapes(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What foreign text must not spell, and what is to be written instead.

    Args:
        tokenizer: A prepared one; `shield` has seen it.

    Raises:
        UserError: where the tokenizer has a special token that cannot be kept out.
    """
    reserved = reserved_tokens(tokenizer)
    spellings = _beginnings([*(token.strip() for token in reserved.values()), *TOOL_TAGS])
    for spelling in spellings:
        if any(spelling.endswith(TURN_END[:length]) for length in range(1, len(TURN_END))):
            raise UserError(
                f"tokenizer: its special token {spelling!r} ends as {TURN_END!r} begins, so that a text "
                "before that could complete it; use a tokenizer without it"
            )
    written = {joint: {text: _apart(text, joint) for text in spellings} for joint in JOINTS}
    harmless = [joint for joint in JOINTS if _is_harmless(tokenizer, reserved, joint, written[joint])]
    if not harmless:
        raise UserError(
            f"tokenizer: none of {JOINTS!r} keeps a text from spelling its special tokens; use another one"
        )
    known = [joint for joint in harmless if _is_known(tokenizer.backend_tokenizer, joint)]
    return written[[*known, *harmless][0]]


def escaped(text: str, escapes: Mapping[str, str]) -> str:
    """Write a foreign text, as the template does."""
    for spelling, instead in escapes.items():
        text = text.replace(spelling, instead)
    return text


def _beginnings(spellings: Iterable[str]) -> list[str]:
    """The spellings, each once; of a long row of numbered ones only the common beginning."""
    families: dict[str, list[str]] = defaultdict(list)
    for spelling in dict.fromkeys(spellings):
        numbered = _NUMBERED.fullmatch(spelling)
        families[numbered[1] if numbered else spelling].append(spelling)
    return [
        text
        for beginning, members in families.items()
        for text in ([beginning] if len(members) >= _FAMILY else members)
    ]


def _apart(spelling: str, joint: str) -> str:
    """The spelling with a joint in it, such that no text around completes it anew."""
    if len(spelling) == 1:
        return NOTHING
    repeats = any(spelling[:length] == spelling[-length:] for length in range(1, len(spelling)))
    return spelling[0] + joint + spelling[1:] + joint * repeats


def _is_harmless(
    tokenizer: PreTrainedTokenizerBase, reserved: Mapping[int, str], joint: str, written: Mapping[str, str]
) -> bool:
    """Whether what is written yields no reserved token, but the one for the unknown."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    if any(joint in token and token.strip() for token in reserved.values()):
        return False
    forbidden = reserved.keys() - {unknown_id(backend.model)}
    texts = [text for each in written for text in (each, f"x{each}x", f"\n{each}\n")]
    found = backend.encode_batch([escaped(text, written) for text in texts], add_special_tokens=False)
    return all(forbidden.isdisjoint(encoding.ids) for encoding in found)


def _is_known(backend: Tokenizer, joint: str) -> bool:
    """Whether the joint is left in the text and is no unknown character."""
    ids = backend.encode(f"<{joint}x", add_special_tokens=False).ids
    bare = backend.encode("<x", add_special_tokens=False).ids
    return ids != bare and unknown_id(backend.model) not in ids


def shield(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let nothing but its exact spelling give a reserved token, in place; a second call changes nothing.

    Reserved tokens match as they are written, not as a normalizer would write them. Where the vocabulary of
    the model itself holds one, as SentencePiece's does, a text could still come to it after normalization:
    there the pre-tokenizer takes it apart, and the normalizer replaces those of one character.

    Args:
        tokenizer: One that has all markers and chat tokens.
    """
    reserved = reserved_tokens(tokenizer)
    backend: Tokenizer = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    normalized = [token for token in state["added_tokens"] if token["normalized"] and token["id"] in reserved]
    if normalized:
        for token in normalized:
            token["normalized"] = False
        backend = Tokenizer.from_str(json.dumps(state))
        tokenizer._tokenizer = backend  # noqa: SLF001
    reached = _reached_by_the_model(backend, reserved)
    single = [text for text in reached if len(text) == 1]
    if single:
        steps = [normalizers.Replace(text, NOTHING) for text in single]
        backend.normalizer = normalizers.Sequence([*_as_list(backend.normalizer), *steps])
    if longer := [f"{re.escape(text[0])}(?={re.escape(text[1:])})" for text in reached if len(text) > 1]:
        split = pre_tokenizers.Split(Regex("|".join(longer)), behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([*_as_list(backend.pre_tokenizer), split])


def _as_list(part: Any) -> list[Any]:
    return [] if part is None else [part]


def _reached_by_the_model(backend: Tokenizer, reserved: Mapping[int, str]) -> list[str]:
    """Reserved tokens that a text can give without the added tokens."""
    settings = parts_of(backend)
    twin = Tokenizer.from_str(json.dumps(settings))
    twin.model = backend.model
    unknown = unknown_id(backend.model)
    return [
        text
        for token_id, text in reserved.items()
        if token_id != unknown
        and any(token_id in twin.encode(each, add_special_tokens=False).ids for each in (text, f"x{text}x"))
    ]
