"""An expression without its layout; strings only, in linear time."""

import re
import unicodedata

# What Unicode's compatibility form would make something else of: "1½" is not 11/2, "x²" not x2.
_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ",
     "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ",
     "∅": r"\emptyset ", "±": r"\pm ", "°": r"^\circ ", "∈": r"\in "}
)  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_PART = r"\s*(\\(?!sqrt|text|math|left|frac)[a-zA-Z]+|[0-9a-zA-Z]|\{[^{}]*\})"
_REWRITES = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"(?<!\\)√\s*(\d+|\([^()]*\)|[a-z])", r"\\sqrt{\1}"),
        (r"\\(?:left|right|displaystyle|textstyle|bigl?|bigr|Bigl?|Bigr)(?![a-zA-Z])\.?", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\\{,\}|\{,\}", ","),
        (r"(?<=\d),\s*\\[!,]\s*(?=\d{3}(?!\d))", ","),  # 10,\!000
        (r"\\!", ""),
        (r"\\(?:quad|qquad)(?![a-zA-Z])|(?<!\\)\\[,;: ]|~", " "),
        (r"\\(?:leq|geq|neq)(?![a-zA-Z])", lambda m: m[0][:3]),
        (r"\\textnormal(?![a-zA-Z])", r"\\text"),
        (r"(?<=\d)\s*\\text\s*\{\s*(?:percent|percentage|pct)\s*\}", r"\\%"),
        (r"\*\*(?=\s*[\d(a-z-])", "^"),
        (r"(?<![\\a-zA-Z])sqrt\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (
            rf"\\frac(?=\s*\\|\s*[0-9a-zA-Z{{]){_PART}{_PART}",
            lambda m: rf"\frac{_braced(m[1])}{_braced(m[2])}",
        ),
        (r"\^\(([^()]*)\)", r"^{\1}"),
        (r"\^(-?\d{2,})", r"^{\1}"),
        (r"(?<=\d)i(?![a-zA-Z])", " i"),
    )
]
_NO_SOLUTION = re.compile(
    r"(?:\\text\{)?\s*(?:there (?:is|are) )?(?:no (?:real )?solutions?|(?:the )?empty set)\s*\}?"
    r"|\\varnothing|\\\{\s*\\\}",
    re.I,
)
# The signs of emphasis in Markdown stand outside of words, those of a product or a power between numbers.
_EMPHASIS = re.compile(r"(?<![\w*)\]}])(\*{1,3})(?=[^\s*])([^*\n]{1,500}?)(?<=[^\s*])\1(?![\w*({\\])")
_CODE = re.compile(r"(?<!`)`([^`\n]{1,500})`(?!`)")


def clean(expression: str) -> str:
    """The expression without layout, its Unicode signs as LaTeX."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda run: f"^{{{run[0].translate(_RAISED)}}}", expression)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda run: f"_{{{run[0].translate(_LOWERED)}}}", text)
    text = re.sub("[¼-¾⅐-⅞]", lambda sign: f" {unicodedata.normalize('NFKC', sign[0])}", text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).replace("⁄", "/").translate(_SIGNS)
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    text = " ".join(text.split()).strip(" *`").removesuffix(".").rstrip(" *`")
    text = _without_dollars(text)
    return r"\emptyset" if _NO_SOLUTION.fullmatch(text) else text


def plain(text: str) -> str:
    """The text without Markdown's emphasis, and without the notes of a calculator, `<<2+3=5>>`."""
    text = re.sub(r"<<[^<>\n]{0,200}>>", "", text)
    return _CODE.sub(r"\1", _EMPHASIS.sub(r"\2", text))


def _braced(part: str) -> str:
    return part if part.startswith("{") else f"{{{part}}}"


def _without_dollars(text: str) -> str:
    """The text without the dollars around it; one at an end alone is an amount's."""
    inside = text.strip("$").strip()
    return inside if text.startswith("$") == text.endswith("$") else text
