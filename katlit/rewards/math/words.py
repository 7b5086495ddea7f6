"""Answers that are words, or the letter of a choice."""

import re

from katlit.rewards.math.cleaning import clean, plain

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|textsf|mathsf)\s*\{([^{}]*)\}")
_CHOICE = re.compile(r"\(?([A-Za-z])[).:]?")
# Letters of choices that stand before a text: "C. 12 apples"; "A" and "I" alone are words.
_LABELLED = re.compile(r"\(?([A-HJ])(?:\)\s*|[.:]\s+|\s+[-–]\s+)\S.*", re.S)
_NAMED = re.compile(
    r"\b(?i:answer|option|choice)\b(?:[^.\n]{0,40}?\b(?:is|be)\b\s*:?|\s*:)\s*(?:(?i:option|choice)\s+)?\(?([A-HJ])"
    r"(?=[).:,;]|\s*\Z|\s+(?:because|since|as|which|[-–]))",
)
_CORRECT = re.compile(r"(?<![A-Za-z])\(?([A-HJ])\)? is (?:the )?(?:correct|right|answer)\b")
_OPTION = re.compile(r"(?i:answer|option|choice)\s+\(?([A-HJ])\)?(?:[.!]|[):]\s.*)?")
_LETTER = re.compile(r"(?<![A-Za-z\\])(?:[B-HJ]|A(?!\s+[a-z])|A(?=\s+(?:is|or|and|nor)\b))(?![A-Za-z'’])")
# A letter that stands where another answer would: "A. No. B!"
_RIVAL = re.compile(r"(?:[.!?,;]\s+|\b(?:or|be|is|option|choice|answer)\s+)\(?([B-HJ])(?![A-Za-z'’])")
_NOT_THIS = re.compile(r",?\s+(?:and\s+)?not\s+(?:option\s+|choice\s+)?\(?[A-HJ]\b\)?")
_DENIED = re.compile(
    r"\b(?:not|neither|nor|never|none|nobody|eliminate[sd]?|eliminating|rul(?:e[sd]?|ing)\s+out|rejects?|exclude[sd]?|"
    r"wrong|incorrect|false|untrue|tempting|too|doubt|unlikely|unclear|whether|hardly|no\s+one)\b|n['’]t\b|\?",
    re.I,
)
_TURN = re.compile(r"(?<=\w\w[.!?])\s+|[;\n]|\b(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence)\b")
_STATED = re.compile(r"(.*)\b(?:is|are|was|be|:)\s+(?:an?\s+|the\s+|on\s+)?(\S.*)", re.S | re.I)
_QUESTION = re.compile(r"\A(?:true\s+or\s+false|yes\s+or\s+no)\s*[:?]\s*", re.I)
_OPPOSITE = {
    "yes": r"\bno(?=\s*(?:[,.!?;:)]|\Z))",
    "no": r"\byes\b",
    "true": r"\bfalse\b",
    "false": r"\btrue\b",
}
_JUDGEMENT = re.compile(
    r"(yes|no|true|false)\s*(?:\Z|[,.!;:–-]|(?<!no)(?<!no\s)(?=(?:it|he|she|they|we|this|that|the|there|because|since)\b))",
    re.I,
)
_TAKEN_BACK = re.compile(r"\b(?:wait|sorry|actually|in\s+fact)\b", re.I)


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
    parts = text.split()
    long = all(len(word) > 2 for word in parts) or len(parts) > 2 or text.casefold() == "no"
    return " ".join(text.casefold().split()) if long or text != expression else None


def choice(text: str) -> str | None:
    """The letter of a choice with its text, "C. 12 apples"; None where there is none, or more than one."""
    lines = [line.strip() for line in plain(unmarked(text).replace("$", "")).splitlines() if line.strip()]
    named = {letter for line in lines for piece in _TURN.split(line) for letter in _named(piece)}
    if not named:
        labelled = [match for line in lines if (match := _LABELLED.fullmatch(line))]
        rivals = {letter for match in labelled for letter in _RIVAL.findall(match[0], match.end(1) + 1)}
        named = {match[1] for match in labelled} | rivals
    return named.pop().casefold() if len(named) == 1 else None


def _named(piece: str) -> set[str]:
    """The letter that a sentence says to be the answer; none where it denies one, or has others."""
    piece = _NOT_THIS.sub("", piece).strip()
    whole = _OPTION.fullmatch(piece)
    found = {*_NAMED.findall(piece), *_CORRECT.findall(piece), *([whole[1]] if whole else [])}
    return found if not found or not (_DENIED.search(piece) or set(_LETTER.findall(piece)) - found) else set()


def stated_words(text: str) -> set[str]:
    """What a short text may say in words: all of it, and what follows its last "is"."""
    sentence = _QUESTION.sub("", plain(text).strip().rstrip(".!").strip())
    parts = [sentence]
    if (match := _STATED.fullmatch(sentence)) and not _DENIED.search(_TURN.split(match[1])[-1]):
        parts.append(match[2])
    found = {words(clean(part)) for part in parts} | {judgement(sentence)}
    return {one for one in found if one}


def judgement(text: str) -> str | None:
    """The yes, no, true or false that a text begins with, if it says nothing against it later."""
    text = plain(text).strip()
    match = _JUDGEMENT.match(text)
    if match is None:
        return None
    word, rest = match[1].casefold(), text[match.end() :]
    against = re.search(_OPPOSITE[word], rest, re.I) or _TAKEN_BACK.search(rest)
    return None if against else word
