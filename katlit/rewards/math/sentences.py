"""The number that a plain sentence states: "He has 12 balloons." says 12, "He has 12 of 15." nothing."""

import re

from katlit.rewards.math.numerals import NUMBER_WORD
from katlit.rewards.math.units import read_unit

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!,?\d)|\d+)(?:\.\d+)?|\.\d+"
_AMOUNT = rf"(?:\\?[$£€¥₹]\s?)?(?:{_NUMBER})(?:\s?\\?[%$£€¥₹])?"
_TERM = rf"[-+]?\s?\(?{_AMOUNT}\)?"
# Numbers and signs between them, "48 + 24 = 72"; a mixed number, "1 1/2", is one number.
_RUN = re.compile(rf"(?P<run>-?\(?{_AMOUNT}\)?(?:\s?(?:[-+*/=^×÷≈]|x(?=\s?\d))\s?{_TERM}|\s\d+/\d+){{0,40}})")
_WORD = re.compile(
    r"(?<![A-Za-z])(?:[A-Za-z][a-z]{2,}|an|[Hh]e|[Ii]t|[Ww]e|[Ii]n|[Ss]o|is|of|to|at|by|my|on|[Ii]f|[Nn]o)(?![A-Za-z])"
)
_COMMAND = re.compile(r"(?:\\[a-zA-Z]+|_)(?:\s*\{[^{}]*\})?")
_FUNCTIONS = re.compile(r"\b(?:sin|cos|tan|cot|log|exp|sqrt|and|mod|lim|max|min|gcd|lcm|inf)\b", re.I)
_BOUND = re.compile(
    r"\b(?:than|least|most|over|under|above|below|between|nearly|almost|up\s+to|exceeds?|beyond|within|"
    r"at\s+(?:an?\s+)?(?:min|max)imum|(?:min|max)imum\s+of|(?:any|every)thing\s+but|all\s+but|or\s+equals?(?:\s+to)?|"
    r"except|instead\s+of|from|not|step|question|problem|part|case|figure|page|chapter|exercise|option|"
    r"plus|times|twice|double|triple|thrice|"
    r"(?:root|half|third|quarter|square|cube|inverse|reciprocal|product|quotient|factorial|logarithm|log|"
    r"multiple|factor|divisor|power|percent|part|out|one)s?\s+of)(?:\s*:)?\s+(?:an?\s+|the\s+)?\Z",
    re.I,
)
_SIGN = re.compile(r"\b(?:negative|minus)\s+\Z", re.I)
_DOUBT = re.compile(
    r"\b(?:impossible|incorrect|wrong|false|unlikely|suppose|if\s+\w+\s+were|not\s+sure|"
    r"doubt|unclear|not\s+true|nobody|none\s+of)\b|\bwhether\b[^.,;]*\Z|\?\W*\Z",
    re.I,
)
_TURN = re.compile(r"[.;:!?\n]|\b(?:so|then|thus|therefore|hence|but)\b", re.I)
# What after a number says that it is none, or a bound: "12 is not the answer", "12 at most".
_DENIAL = re.compile(
    r"(?:\s+(?!because|since|which|that|and|so|as|it)[a-z]+){0,2}\s+(?:is|was|are|were)(?:n['’]t|\s+(?:clearly\s+)?"
    r"(?:not|wrong|incorrect|false|impossible|too))\b"
    r"|[^.;:!?\n]*?\b(?:at\s+(?:(?:the\s+)?(?:very\s+)?(?:most|least)|(?:min|max)imum)\b"
    rf"(?!\s+{NUMBER_WORD})"
    rf"|or\s+{NUMBER_WORD})",
    re.I,
)
_NEGATION = re.compile(r"\b(?:not|never|neither|nor|cannot|without)\b|n['’]t\b", re.I)
_CONCLUSIVE = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals?|gets?|gives?|makes?|leaves?|totals?|totall?ing|have|has|total\s+of)|=|≈|:)\s+"
    r"(?:(?:exactly|only|just|now|then|still|therefore|thus|also|left|with|about|approximately|around|roughly|an?|the|"
    r"total|of|equal|to)\s+)*\(?\Z",
    re.I,
)
_VERB = re.compile(r"(?P<before>.*\b(?:is|are|get|gives|obtain|equals|be))[\s:]+(?P<what>\S.*)", re.I | re.S)
_NUMBERS = re.compile(r"-?[\d.]+(?:,\s+-?[\d.]+){0,50}(?:,?\s+and\s+-?[\d.]+)")
_PLACE = re.compile(
    r"\s*[a-zA-Z][^.;!?]*?[a-z]\s+(?:in|for|at|after|during|on|over|from|when|if|by|with)\s", re.I
)
_THEN = re.compile(
    r"\b(?:so|thus|therefore|hence|then|which|total|altogether|means|making|giving|leaving|answer|finally)\b",
    re.I,
)
_ORDINAL = re.compile(r"\d(?:st|nd|rd|th)\b", re.I)
_BEFORE = re.compile(r"[A-Za-z0-9_\\^<>≤≥≠*/+{\[.,:-]\Z|[<>≤≥≠^*/+-]\s+\Z")
_AFTER = re.compile(r"[_\\^<>≤≥*/+{\[:(]|\.\d|\s*[<>≤≥^=]|\s+[-+*/]\s")
_LETTERS = re.compile(r"[A-Za-z°²³]+")
_SCALE = re.compile(r"\s*(?:hundred|thousand|million|billion|trillion|dozen|percent(?:age)?|pct)\b", re.I)
# Words that make another number of the one before them.
_CHANGE = re.compile(
    r"\s*(?:plus|minus|times|over|divided|squared|cubed|factorial|mod|modulo|choose|halves|half|thirds?|fourths?|"
    r"quarters?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|hundredths?|thousandths?|dozens|to\s+the|"
    r"(?:hundred|thousand|million|billion|trillion|ten)s|point|raised|multiplied|increased|decreased|reduced|"
    rf"[a-z]+\s+(?:(?:below|under)\s+zero|(?:and\s+)?{NUMBER_WORD})|"
    r"or\s+(?:more|less|fewer|so)|and\s+an?\s+(?:half|third|quarter))\b",
    re.I,
)
_CLAUSE = re.compile(
    r"[.,;:!?()\n]|\b(?:and|or|but|which|because|so|if|when|for|with|that|who|after|before)\b"
)


def is_prose(text: str) -> bool:
    """Whether the text has words beyond those of an expression."""
    return (
        _WORD.search(_FUNCTIONS.sub("", re.sub(r"(?:\\[a-zA-Z]+|_)(?:\s*\{[^{}]*\})?", "", text))) is not None
    )


def stated_number(sentence: str) -> str | None:
    """The number of a sentence, with what is counted; None where it is open which of several is meant.

    Of several numbers, the last is meant where a verb or an equals sign leads to it. A bound and a negated
    number are no answers.
    """
    sentence = sentence.replace("–", "-").replace("−", "-")
    runs = [run for run in _RUN.finditer(sentence) if not _ORDINAL.match(sentence, run.end() - 1)]
    chosen = _chosen(sentence, runs)
    if chosen is None or not _stands_alone(sentence, chosen):
        return None
    before, after = sentence[: chosen.start()], sentence[chosen.end() :]
    denied = "=" not in chosen[0] and (is_bound(before) or _DOUBT.search(sentence))
    if denied or _CHANGE.match(after) or is_denied(after):
        return None
    sign = "-" if _SIGN.search(before) else ""
    return sign + _value(chosen[0]) + _counted(after)


def stated_expression(sentence: str) -> str | None:
    """What follows the verb of a sentence, if that is an expression: 2√3 in "The length is 2√3"."""
    match = _VERB.fullmatch(sentence.rstrip().rstrip(".!"))
    if match is None or is_prose(match["what"]) or is_bound(match["before"]):
        return None
    if re.search(r"\bare\Z", match["before"]) and _NUMBERS.fullmatch(match["what"]):
        return match["what"]
    return match["what"] if re.search(r"[=+\-*/^\\√π(){}\[\]<>≤≥]|\d[a-zA-Z]", match["what"]) else None


def _chosen(sentence: str, runs: list[re.Match[str]]) -> re.Match[str] | None:
    """The number that is meant: the only one, a sum's result, or what a verb leads to in the end."""
    if not runs:
        return None
    last = runs[-1]
    if len({_value(run[0]) for run in runs}) == 1 and all(_stands_alone(sentence, run) for run in runs):
        return last
    if re.search(r"[=≈]\s*\Z", sentence[: last.start()]):
        return last
    led_to = [run for run in runs if _CONCLUSIVE.search(sentence[: run.start()])]
    if led_to and led_to[-1] is last:
        return last if not led_to[:-1] or _THEN.search(sentence, led_to[-2].end(), last.start()) else None
    if (
        len(led_to) == 1
        and led_to[0] is runs[0]
        and _PLACE.match(sentence[led_to[0].end() : runs[1].start()])
    ):
        return led_to[0]
    sums = [run for run in runs if re.search("[=≈]", run[0])]
    if not sums:
        return None
    given = set(re.findall(_NUMBER, sentence[: sums[-1].end()]))
    return sums[-1] if given.issuperset(re.findall(_NUMBER, sentence[sums[-1].end() :])) else None


def leads_to_end(text: str) -> bool:
    """Whether a text ends in what leads to an answer: "the sum is", "we get"."""
    return _CONCLUSIVE.search(text.rstrip() + " ") is not None


def is_denied(after: str) -> bool:
    """Whether what follows a number makes no answer of it: "is not the answer", "at most"."""
    return _DENIAL.match(after) is not None


def is_doubted(before: str) -> bool:
    """Whether a text ends in a sentence that doubts what follows: "I doubt that"."""
    return _DOUBT.search(_TURN.split(before)[-1]) is not None


def is_bound(text: str) -> bool:
    """Whether a text ends in what makes no answer of a number after it: "more than", "is not"."""
    return bool(_BOUND.search(text.rstrip() + " ") or _NEGATION.search(_CLAUSE.split(text)[-1]))


def _stands_alone(sentence: str, run: re.Match[str]) -> bool:
    """Whether no letters and signs around a number make another expression of it."""
    after = sentence[run.end() :]
    if _BEFORE.search(sentence[max(0, run.start() - 20) : run.start()]) or _AFTER.match(after):
        return False
    letters = _LETTERS.match(after)
    return letters is None or (len(letters[0]) > 1 and read_unit(letters[0], nouns=False) is not None)


def _value(run: str) -> str:
    value = re.split("[=≈]", run)[-1].strip()
    return value if value.count("(") == value.count(")") else value.strip("()")


def _counted(after: str) -> str:
    """What is counted after a number, as far as it can be told."""
    scale = _SCALE.match(after)
    following = re.split(r"\d", after[scale.end() if scale else 0 :][:80], maxsplit=1)[0]
    words = _CLAUSE.split(following, maxsplit=1)[0].rstrip()
    unit = read_unit(words)
    if unit and not unit.name:  # the noun alone: what follows may be anything
        words = " ".join(words.split(maxsplit=3)[:2])
    return (scale[0] if scale else "") + (f" {words.strip()}" if unit else "")
