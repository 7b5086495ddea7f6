"""Answers that are words, or the letter of a choice."""

import re

from katlit.rewards.math.cleaning import clean, plain

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|textsf|mathsf)\s*\{([^{}]*)\}")
_CHOICE = re.compile(r"\(?([A-Za-z])[).:]?")
# Letters of choices that stand before a text: "C. 12 apples"; "A" and "I" alone are words.
_LABELLED = re.compile(r"\(?([A-HJ])(?:\)\s*|[.:]\s+|\s+[-–]\s+)\S.*", re.S)
_NAMED = re.compile(
    r"\b(?i:answer|option|choice)\b(?:[^.\n]{0,40}?\b(?:is|be)\b)?\s*:?\s*(?:(?i:option|choice)\s+)?\(?([A-HJ])"
    r"(?=[).:,;]|\s*\Z|\s+(?:because|since|as|which|[-–]))",
)
_CORRECT = re.compile(r"(?<![A-Za-z])\(?([A-HJ])\)? is (?:the )?(?:correct|right|answer)\b")
_STATED = re.compile(r".*\b(?:is|are|was|be|:)\s+(?:an?\s+|the\s+|on\s+)?(\S.*)", re.S | re.I)


def unmarked(expression: str) -> str:
    r"""The expression with the words of `\text{…}` as plain words."""
    return _TEXT.sub(r"\1", expression)


def words(expression: str) -> str | None:
    r"""The expression as words, if it is nothing else: "even", "Monday", "(B)"; else None.

    Letters of `\text{…}`, and plain words of three letters or more: products of as many variables are rare.
    """
    text = unmarked(expression).strip()
    if match := _CHOICE.fullmatch(text):
        marked = text != expression or len(text) > 1
        return match[1].casefold() if marked or match[1] in "ABCDE" else None
    if not re.fullmatch(r"[^\W\d_][^\W\d_'\- ]*(?:[ '\-]+[^\W\d_]+)*", text):
        return None
    long = all(len(word) > 2 for word in text.split()) or len(text.split()) > 2
    return " ".join(text.casefold().split()) if long or text != expression else None


def choice(text: str) -> str | None:
    """The letter of a choice with its text, "C. 12 apples"; None where there is none, or more than one."""
    lines = [line.strip() for line in plain(unmarked(text).replace("$", "")).splitlines() if line.strip()]
    named = {letter for line in lines for letter in [*_NAMED.findall(line), *_CORRECT.findall(line)]}
    if not named:
        named = {match[1] for line in lines if (match := _LABELLED.fullmatch(line))}
    return named.pop().casefold() if len(named) == 1 else None


def stated_words(text: str) -> set[str]:
    """What a short text may say in words: all of it, and what follows its last "is"."""
    sentence = plain(text).strip().rstrip(".!").strip()
    match = _STATED.fullmatch(sentence)
    parts = [
        sentence,
        match[1] if match else sentence,
        *re.findall(r"\A(?:yes|no|true|false)\b", sentence, re.I),
    ]
    found = {words(clean(part)) for part in parts}
    return {one for one in found if one}
