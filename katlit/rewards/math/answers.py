"""What a response gives as its answer in the end, without layout: strings only, in linear time."""

import re
import unicodedata

_BRACES = re.compile(r"(?P<box>\\f?boxed\s*\{)|\\[{}\\]|(?P<open>\{)|(?P<close>\})")
# Not the dollars of an amount, "$5 and $6": their content starts with a digit, and so does what follows.
_MATH = re.compile(
    r"\$\$([^$]+)\$\$|\$([^$]+)\$(?!\d)|\\\(((?:[^\\]|\\(?!\)))+)\\\)|\\\[((?:[^\\]|\\(?!\]))+)\\\]"
)
_LINK = re.compile(r"\s*(?:,|;|and|or|,\s*and|,\s*or)\s*")
_PHRASE = re.compile(
    r"\A.{0,200}?\b(?:answer|result|solution)s?\b[\s*]*(?:(?:is|are)\b\s*:?|:|=)[\s*]*(?=\S)", re.I | re.S
)

# What Unicode's compatibility form would make something else of: "1½" is not 11/2, "x²" not x2.
_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ",
     "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ",
     "∅": r"\emptyset ", "±": r"\pm ", "°": r"^\circ ", "∈": r"\in "}
)  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_REWRITES = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"(?<!\\)√\s*(\d+|\([^()]*\)|[a-z])", r"\\sqrt{\1}"),
        (r"\\(?:left|right|displaystyle|textstyle|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])\.?", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:quad|qquad)(?![a-zA-Z])|(?<!\\)\\[!,;: ]|~", " "),
        (r"\{,\}", ","),
        (r"\\(?:leq|geq|neq)(?![a-zA-Z])", lambda m: m[0][:3]),
        (r"\*\*(?=\s*[\d(a-z-])", "^"),
        (r"(?<![\\a-zA-Z])sqrt\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"\^\(([^()]*)\)", r"^{\1}"),
        (r"\^(-?\d{2,})", r"^{\1}"),
        (r"(?<=\d)i(?![a-zA-Z])", " i"),
    )
]
_NO_SOLUTION = re.compile(
    r"(?:\\text\{)?\s*(?:there (?:is|are) )?(?:no solutions?|(?:the )?empty set)\s*\}?"
    r"|\\varnothing|\\\{\s*\\\}",
    re.I,
)


def final_expression(text: str, max_characters: int) -> str:
    r"""The expression that a response, or a reference, ends in.

    That is what is boxed; several boxes are several answers, so that a hedge is not the better for its last
    one. Without a box, it is the last formula between `$` or the like, with those that a comma, "and" or "or"
    links to it; without a formula, the text itself, but for "the answer is".

    Args:
        text: A text of any length.
        max_characters: How many characters at the end of a text without a box are searched.
    """
    boxed = list(dict.fromkeys(_boxed(text)))
    if boxed:
        return clean(", ".join(boxed))
    end = text[-max_characters:].strip()
    formulas = _last_formulas(end)
    if formulas:
        return clean(", ".join(formulas))
    if len(text.strip()) > max_characters:
        return text
    return clean(_PHRASE.sub("", end, count=1))


def _boxed(text: str) -> list[str]:
    r"""The contents of all outermost `\boxed{…}`; one that is never closed is none."""
    found: list[str] = []
    stack: list[tuple[bool, int, int]] = []  # of each open brace: is it a box, its start, how many were found
    for token in _BRACES.finditer(text):
        if token["box"] or token["open"]:
            stack.append((bool(token["box"]), token.end(), len(found)))
        elif token["close"] and stack:
            box, start, before = stack.pop()
            if box:
                found[before:] = [text[start : token.start()].strip()]
    return found


def _last_formulas(text: str) -> list[str]:
    matches = list(_MATH.finditer(text))
    chosen = matches[-1:]
    for earlier in reversed(matches[:-1]):
        if not _LINK.fullmatch(text, earlier.end(), chosen[0].start()):
            break
        chosen.insert(0, earlier)
    return [next(group for group in match.groups() if group).strip() for match in chosen]


def clean(expression: str) -> str:
    """The expression without layout, its Unicode signs as LaTeX."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda run: f"^{{{run[0].translate(_RAISED)}}}", expression)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda run: f"_{{{run[0].translate(_LOWERED)}}}", text)
    text = re.sub("[¼-¾⅐-⅞]", lambda sign: f" {unicodedata.normalize('NFKC', sign[0])}", text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).replace("⁄", "/").translate(_SIGNS)
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    text = " ".join(text.split()).strip(" *`$").removesuffix(".").rstrip()
    return r"\emptyset" if _NO_SOLUTION.fullmatch(text) else text


_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
_CHOICE = re.compile(r"\(?([A-Za-z])[).]?")


def words(expression: str) -> str | None:
    r"""The expression as words, if it is nothing else: "even", "Monday", "(B)"; else None.

    Letters of `\text{…}`, and plain words of three letters or more: products of as many variables are rare.
    """
    plain = _TEXT.sub(r"\1", expression).strip()
    if choice := _CHOICE.fullmatch(plain):
        marked = plain != expression or len(plain) > 1
        return choice[1].casefold() if marked or choice[1] in "ABCDE" else None
    if not re.fullmatch(r"[^\W\d_][^\W\d_'\- ]*(?:[ '\-]+[^\W\d_]+)*", plain):
        return None
    long = all(len(word) > 2 for word in plain.split()) or len(plain.split()) > 2
    return " ".join(plain.casefold().split()) if long or plain != expression else None
