"""Lists, sets and tuples of answers, told apart by their brackets."""

import re
from dataclasses import dataclass

from katlit.rewards.math.numerals import Numeral, equal, read_numeral

_TOKEN = re.compile(r"\\?[{\[(]|\\?[})\]]|,|;|\s(?:and|or)\s|\\text\s*\{\s*(?:and|or)\s*\}")
_BRACKETS = {("(", ")"): "tuple", (r"\{", r"\}"): "set", ("[", "]"): "closed", ("(", "]"): "left-open",
             ("[", ")"): "right-open"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Listed:
    """Several items and the brackets around them: "list" where there are none."""

    kind: str
    items: list[str]


def split_list(text: str) -> Listed | None:
    """The items between commas, semicolons, "and" and "or"; None where there are fewer than two."""
    kind, inside = "list", text
    tokens = list(_TOKEN.finditer(text))
    if tokens and _closes_at_the_end(text, tokens):
        kind = _BRACKETS.get((tokens[0][0], tokens[-1][0]), "list")
        inside = text if kind == "list" else text[tokens[0].end() : tokens[-1].start()]
    items = [item.strip() for item in _split(inside)]
    return Listed(kind, items) if len(items) > 1 and all(items) else None


def _closes_at_the_end(text: str, tokens: list[re.Match[str]]) -> bool:
    """Whether the text is all in one pair of brackets."""
    depth = 0
    for token in tokens:
        depth += _step(token[0])
        if depth == 0:
            return tokens[0].start() == 0 and token.end() == len(text)
    return False


def _split(text: str) -> list[str]:
    items, start, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        depth += _step(token[0])
        if depth == 0 and _step(token[0]) == 0:
            items.append(text[start : token.start()])
            start = token.end()
    items = [*items, text[start:]]
    return [item for item in items if item.strip()]  # ", and" is one sign


def _step(token: str) -> int:
    if "text" in token:
        return 0
    return (token[-1] in "{[(") - (token[-1] in "}])")


def equal_lists(reference: Listed, answer: Listed) -> bool | None:
    """Whether two lists are the same; None where that takes more than brackets and numbers.

    A set is no tuple and no interval, and the ends of intervals have to be open or closed alike. The order
    counts where one of the two has brackets of a tuple or an interval.
    """
    if reference.kind != answer.kind and "list" not in (reference.kind, answer.kind):
        return False
    numbers, given = _numerals(reference), _numerals(answer)
    if numbers is None or given is None:
        return None
    if {reference.kind, answer.kind} <= {"list", "set"}:
        numbers, given = _distinct(numbers), _distinct(given)
    return len(numbers) == len(given) and all(map(equal, numbers, given))


def _numerals(listed: Listed) -> list[Numeral] | None:
    numerals = [read_numeral(item) for item in listed.items]
    return [one for one in numerals if one] if all(numerals) else None


def _distinct(numerals: list[Numeral]) -> list[Numeral]:
    return sorted({one.value: one for one in numerals}.values(), key=lambda one: one.value)
