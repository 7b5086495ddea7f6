"""Formulas between dollars and the like, and the sentences around them."""

import re
from dataclasses import dataclass
from itertools import pairwise

from katlit.rewards.math.numerals import read_numeral
from katlit.rewards.math.sentences import (
    is_bound,
    is_denied,
    is_doubted,
    is_prose,
    leads_to_end,
    stated_number,
)
from katlit.rewards.math.units import read_unit

# Not the dollars of an amount, "$5 and $6": their content starts with a digit, and so does what follows.
_MATH = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$((?:[^$\\]|\\.)+)\$(?!\d)|\\\(((?:[^\\]|\\(?!\)))+)\\\)|\\\[((?:[^\\]|\\(?!\]))+)\\\]",
    re.S,
)
_LINK = re.compile(r"\s*(?:,|;|and|or|,\s*and|,\s*or)\s*")
_BOUNDARY = re.compile(r"(?<=[.!?])(?:\$\$|[*\"')$]|\\[\])])?\s+|\s*\n\s*")
_COUNTED = re.compile(r"\s*(?:\\?%|[a-zA-Z][^.,;:!?()$\n]{0,60})")


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula in a text: what it holds, and where it stands with its signs."""

    content: str
    start: int
    end: int


def find_formulas(text: str) -> list[Formula]:
    """The formulas of a text; amounts of dollars are none."""
    found = []
    for match in _MATH.finditer(text):
        content = next(group for group in match.groups() if group)
        if not (match[0][0] == "$" != match[0][1:2] and re.match(r"\d", content) and is_prose(content)):
            found.append(Formula(content.strip(), match.start(), match.end()))
    return found


def is_linked_list(text: str, formulas: list[Formula]) -> bool:
    """Whether the text is these formulas, with commas, "and" and "or" between them, and nothing else."""
    around = (text[: formulas[0].start] + text[formulas[-1].end :]).strip(" .\n")
    return not around and len(_linked(text, formulas)) == len(formulas)


def unwrapped(text: str, formulas: list[Formula]) -> str:
    """The text without the signs around its formulas."""
    for one in reversed(formulas):
        text = f"{text[: one.start]}{one.content}{text[one.end :]}"
    return text


def sentences(text: str) -> list[str]:
    """The sentences of a text; lines are some, but formulas, and those linked to each other, are in one."""
    formulas = find_formulas(text)
    spans = [(one.start, one.end) for one in formulas]
    spans += [
        (left.end, right.start)
        for left, right in pairwise(formulas)
        if _LINK.fullmatch(text, left.end, right.start)
    ]
    spans.sort()
    found, start, span = [], 0, 0
    for boundary in _BOUNDARY.finditer(text):
        space = boundary.end() - 1
        while span < len(spans) and spans[span][1] <= space:
            span += 1
        if span < len(spans) and spans[span][0] <= space:
            continue
        found.append(text[start : boundary.end()])
        start = boundary.end()
    return [sentence for sentence in [*found, text[start:]] if sentence.strip()]


def formula_answer(sentence: str) -> str | None:
    """The formula, or the formulas, that a sentence ends in, with a unit after it; None where that is open.

    A number in plain text after it is the answer where the sentence leads to it: "If $x$ is 2, it is 12."
    """
    formulas = find_formulas(sentence)
    chosen = _linked(sentence, formulas)
    before, after = sentence[: chosen[0].start], sentence[chosen[-1].end :]
    if re.search(r"\d", after):
        number = stated_number(after)
        if number and leads_to_end(after[: after.rfind(number.split()[0])]):
            return number
        if not leads_to_end(before):
            return None
    if is_bound(before) or is_doubted(before) or is_denied(after):
        return None
    if _has_rival(formulas, chosen) and not leads_to_end(before):
        return None
    counted = _COUNTED.match(after)
    unit = counted[0] if counted and len(chosen) == 1 and _is_unit(counted[0]) else ""
    return ", ".join(one.content for one in chosen) + unit


def _linked(text: str, formulas: list[Formula]) -> list[Formula]:
    """The last formula, with those that are linked to it."""
    chosen = formulas[-1:]
    for earlier in reversed(formulas[:-1]):
        if not _LINK.fullmatch(text, earlier.end, chosen[0].start):
            break
        chosen.insert(0, earlier)
    return chosen


def _has_rival(formulas: list[Formula], chosen: list[Formula]) -> bool:
    """Whether a plain number stands before a plain number: "$12$ of $15$"."""
    numbers = [read_numeral(one.content) for one in chosen]
    return all(numbers) and any(
        (other := read_numeral(one.content)) and other not in numbers for one in formulas[: -len(chosen)]
    )


def _is_unit(text: str) -> bool:
    return (
        "%" in text
        or re.match(r"\s*(?:percent|pct)", text) is not None
        or read_unit(text, nouns=False) is not None
    )
