r"""Spellings that math-verify does not read, as ones that it reads: `\{x | x > 1\}`, `5 \pm 1`, 7:32."""

import re

from katlit.rewards.math.cleaning import clean, plain
from katlit.rewards.math.lists import split_list
from katlit.rewards.math.words import unmarked

_BUILDER = re.compile(
    r"\\\{\s*(?P<name>[a-zA-Z])\s*(?:\\in\s*(?:\\mathbb\s*\{?\s*R\s*\}?|R)\s*)?(?:\\mid|\\vert|\\colon|[|:])\s*(?P<rule>.*)\\\}"
)
_SIGN = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_PUNCTUATION = re.compile(r"[.,;:!?](?!\d)|[\"'“”‘’`$*]")


def readable(expression: str) -> str:
    """The expression as math-verify reads it."""
    builder = _BUILDER.fullmatch(expression)
    text = builder["rule"].strip() if builder else expression
    text = re.sub(r"\\mathrm\s*\{\s*([ei])\s*\}", r"\1 ", text)
    return both_signs(text)


def both_signs(expression: str) -> str:
    r"""The list that an expression with `\pm` stands for, its upper sign first.

    Each item of a list stands for two; all signs of an item change together.
    """
    if not _SIGN.search(expression):
        return expression
    inside = re.fullmatch(r"\\\{(.*)\\\}", expression)
    text = inside[1] if inside else expression
    listed = split_list(text)
    items = listed.items if listed and listed.kind == "list" else [text]
    signed = list(dict.fromkeys(one for item in items for one in (_signed(item, "+"), _signed(item, "-"))))
    joined = ", ".join(signed)
    return rf"\{{{joined}\}}" if inside else joined


def _signed(item: str, sign: str) -> str:
    other = "-" if sign == "+" else "+"
    text = _SIGN.sub(lambda match: sign if match[0] == r"\pm" else other, item)
    return re.sub(r"(^|[=({\[,])(\s*)\+\s*", r"\1\2", text)


def as_text(text: str) -> str:
    """The text without layout and punctuation, in one case: to compare what is no expression."""
    text = unmarked(clean(plain(text)))
    text = re.sub(r"\\(?=[,;:! ])|\\(?:ldots|dots)", " ", text)
    text = " ".join(_PUNCTUATION.sub(" ", text).casefold().split())
    return re.sub(r" (?!\d)|(?<!\d) ", "", text)  # "1, 2" is not 12
