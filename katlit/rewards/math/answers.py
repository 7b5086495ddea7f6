"""What a response gives as its answer in the end: strings only, in linear time."""

import re

from katlit.rewards.math.cleaning import clean, plain
from katlit.rewards.math.formulas import find_formulas, formula_answer, is_linked_list, sentences, unwrapped
from katlit.rewards.math.numerals import NUMBER_WORD, equal, read_numeral
from katlit.rewards.math.sentences import (
    is_bound,
    is_denied,
    is_doubted,
    is_prose,
    stated_expression,
    stated_number,
)
from katlit.rewards.math.units import split_unit

_BRACES = re.compile(r"(?P<box>\\{1,2}f?boxed\s*\{)|\\[{}\\]|(?P<open>\{)|(?P<close>\})")
# A box that holds a place only, as in a quoted question.
_PLACE = re.compile(
    r"\\{1,2}f?boxed\s*\{(?:\s|\\[hv]?phantom\s*\{[^{}]*\}|\\[lc]?dots(?![a-zA-Z])|\.{3}|…|\?)*\}"
)
_HASHES = re.compile(r"(?<!\S)####[ \t]*(?![#\s])([^\n]+)$", re.M)
# Of Markdown such a line may be a heading, if more follows: "#### Step 2: adding up", "#### Final Answer".
_HEADING = re.compile(
    r"[\s*_]*(?:(?:step|part|case|method|approach|solution|phase|stage|question|problem|example)\s+\d+\b[^\n]*"
    r"|[a-z]{2}[^\d\n$\\]*|\d+[.)]\s+[a-z]{2}[^\n]*)",
    re.I,
)
_EXCLAIMED = re.compile(r"(?<=\d)!(?=[\s*]*\Z)")  # "The answer is 72!" is no factorial
_PHRASE = re.compile(
    r"\banswers?\b(?:[^.\n:=]{0,80}?\b(?:is|are|be)\b\s*:?|\s*[:=])[\s*_]*(?=\S)"
    r"|\A[^.\n]{0,200}?\b(?:results?|solutions?)\b[\s*]*(?:(?:is|are)\b\s*:?|[:=])[\s*]*(?=\S)",
    re.I,
)
_PHRASES = 10  # so many of them are compared
# Where an answer ends and its reason begins; a number before "in" is part of "1 in 5".
_REASON = re.compile(
    r"(?P<why>,?\s+(?:because|since|which|where|given\s+that|as\s+(?:he|she|it|they|we|there))\b)"
    r"|(?<=[a-z])\s+(?:in|for|after|during|on|with|when|if|from)\s"
)
# What follows an answer and says nothing of it.
_CLOSING = re.compile(
    r"\W*(?:i hope|hope (?:this|that|it)|let me know|feel free|please|if you (?:have|need|want|would)|"
    r"is there anything|good luck|great job|thank|you(?:'re| are) welcome|happy to)\b",
    re.I,
)
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|finally|then|and|or|but|wait|sorry|actually|well|no(?=[,.:!]\s*\S))\b[\s,.:!#]*)+",
    re.I,
)
_ASIDE = re.compile(r"\([^()]*[a-z]{3}[^()]*\)\W*")
# The rest of the sentence that a box stands in: "in 5 years".
_ONGOING = re.compile(r"\A(?:[ \t$)*\]}]|\\[)\]])*(?=[a-z]{2}|a\s|[%(]|,\s+which\b)(?:[^\n.!?]|\.(?=\d))*")
_DENIED_BOX = re.compile(
    r"[\s$)*\\\]]*(?:\?|\(?(?:incorrect|wrong|false|not)\b|\W*(?:that|this|it)\s+(?:is|was)(?:n['’]t|\s+(?:not|wrong|incorrect)))",
    re.I,
)
# A sentence after an answer that explains or checks it, and does not correct it.
_EXPLAINS = re.compile(
    r"\W*(?:note|(?:here\s+)?we\s+(?:have\s+)?used|this\s+(?:can\s+be|is)\s+(?:checked|verified)|to\s+(?:check|verify)|"
    r"check|verification|explanation|recall)\b(?!.*\b(?:should|actually|instead|correct(?:ion)?|wrong|mistake|but|"
    r"must|so|answer|total)\b)",
    re.I | re.S,
)
_SUM = re.compile(r"(?P<value>\d{1,15})\s+\((?P<sum>\d{1,15}(?:\s*[-+]\s*\d{1,15}){1,20})\)\W*")
_BARE_LINE = re.compile(r"(?:[a-zA-Z]\w*\s*=\s*)?-?\\?\$?\d[\d.,/]*")
_OTHER_LETTER = re.compile(
    r"\b(?:but|or|wait|sorry|actually|however|no)\b[^.!?\n]*?(?<![A-Za-z])([B-HJ])(?![A-Za-z'’])", re.I
)
_EXPRESSION = re.compile(r"[=+\-*/^\\<>≤≥∞\[\](){}]|\A\W*[a-zA-Z]\W*\Z")


def final_expression(text: str, max_characters: int) -> str:
    r"""The expression that a response ends in; nothing where it gives none, or two numbers that differ.

    That is what is boxed; several boxes are several answers, so that a hedge is not the better for its last
    one. Without a box, it is what follows "####", else "the answer is", else what the last sentence states
    that states anything: its last formula between `$` or the like, with those that a comma, "and" or "or"
    links to it, or its number.

    Args:
        text: A text of any length.
        max_characters: How many characters at the end of a text are searched for anything but boxes.
    """
    text = _PLACE.sub("", text)
    boxed, after = _boxed(text)
    if boxed and _is_box_denied(after):
        return ""
    if boxed:
        later = after if _LEAD.match(after.lstrip(" $")) else _ONGOING.sub("", after)
        return _undisputed(clean(", ".join(boxed)), plain(later[-max_characters:]))
    end = plain(text[-max_characters:].strip())
    if hashes := _answer_lines(end):
        return _undisputed(_statement(hashes[-1][1]), end[hashes[-1].end() :])
    if phrases := list(_PHRASE.finditer(end))[-_PHRASES:]:
        return _after_phrases(end, phrases)
    if len(text.strip()) <= max_characters:
        return _last_statement(end)
    whole = sentences(end)[1:] or [end][: len(find_formulas(end))]  # the first one may be cut
    return _last_statement("".join(whole)) if whole else text


def _answer_lines(text: str) -> list[re.Match[str]]:
    """What "####" states, as GSM8K has it, without the headings."""
    found = list(_HASHES.finditer(text))
    return [one for one in found if not (_HEADING.fullmatch(one[1]) and _states(text[one.end() :]))]


def reference_expression(text: str, max_characters: int) -> str:
    """The expression of a reference: as of a response, but that of prose all words count.

    One whose only box is empty has none.
    """
    given = text.strip()
    text = _PLACE.sub("", given)
    if _boxed(text)[0] or _answer_lines(text) or _PHRASE.search(text):
        return final_expression(text, max_characters)
    if text != given:
        return ""
    text = plain(text)
    found = find_formulas(text)
    if found and is_linked_list(text, found):
        return clean(", ".join(one.content for one in found))
    return clean(unwrapped(text, found))


def _is_box_denied(after: str) -> bool:
    """Whether the text right after a box takes it back: "is wrong", "(incorrect)", "?"."""
    after = after[:200]
    line = after.lstrip("$)*] ").split("\n")[0]
    return _DENIED_BOX.match(after) is not None or is_denied(" " + line)


def has_box(text: str) -> bool:
    """Whether a response has a box that is not empty."""
    return bool(_boxed(_PLACE.sub("", text))[0])


def _boxed(text: str) -> tuple[list[str], str]:
    r"""The contents of all outermost `\boxed{…}`, each once, and the text after the last one.

    One that is never closed is none.
    """
    found: list[tuple[str, int]] = []
    stack: list[tuple[bool, int, int]] = []  # of each open brace: is it a box, its start, how many were found
    for token in _BRACES.finditer(text):
        if token["box"] or token["open"]:
            stack.append((bool(token["box"]), token.end(), len(found)))
        elif token["close"] and stack:
            box, start, before = stack.pop()
            if box:
                found[before:] = [(text[start : token.start()].strip(), token.end())]
    return list(dict.fromkeys(content for content, _ in found)), text[found[-1][1] :] if found else text


def _after_phrases(end: str, phrases: list[re.Match[str]]) -> str:
    """What follows the last "the answer is", if no other one says otherwise."""
    starts = [phrase.start() for phrase in phrases[1:]] + [len(end)]
    said = [(phrase.end(), sentences(end[phrase.end() :])[0]) for phrase in phrases]
    ends = [start + len(sentence) for start, sentence in said]
    stated = [  # but for "Final answer: the answer is 5", where one holds the next one
        ""
        if is_bound(phrase[0].rstrip("*_ ")) or is_doubted(end[max(0, phrase.start() - 200) : phrase.start()])
        else _statement(_without_reason(_EXCLAIMED.sub("", sentence)))
        for phrase, (_, sentence), stop, following in zip(phrases, said, ends, starts, strict=True)
        if stop <= following
    ]
    if any(_differ(earlier, stated[-1]) for earlier in stated):
        return ""
    return _undisputed(stated[-1], end[ends[-1] :])


def _without_reason(statement: str) -> str:
    """What is stated, without the reason after it."""
    begins = re.match(r"\W*\d", statement)
    for reason in _REASON.finditer(statement):
        before = statement[: reason.start()]
        if (reason["why"] or begins) and re.search(r"\d|\$|\\", before):
            return before
    return statement


def _last_statement(end: str) -> str:
    """What the last sentence states that states anything."""
    lines = [line for line in end.splitlines() if line.strip()]
    if len(lines) > 1 and all(_BARE_LINE.fullmatch(line.strip()) for line in lines):
        return clean(", ".join(lines))
    if r"\begin{" in end and not find_formulas(end):
        return clean(end)
    for sentence in reversed(sentences(end)):
        if not _CLOSING.match(sentence) and not _ASIDE.fullmatch(sentence.strip()) and _states(sentence):
            return _statement(sentence)
    return clean(end)


def _states(sentence: str) -> bool:
    return bool(re.search(r"\d", sentence) or find_formulas(sentence)) or bool(
        not is_prose(sentence) and _EXPRESSION.search(sentence)
    )


def _statement(sentence: str) -> str:
    """What a sentence states; nothing where that is open."""
    sentence = re.sub(r"\A\s*(?:=>|->|[⇒→])", "", sentence).strip().lstrip("#=≈~ ").rstrip(" ✓✔✅")
    if lead := _LEAD.match(sentence):
        sentence = sentence[lead.end() :]
    if summed := _SUM.fullmatch(sentence):
        parts = re.findall(r"[-+]?\d+", summed["sum"].replace(" ", ""))
        return summed["value"] if int(summed["value"]) == sum(map(int, parts)) else clean(sentence)
    if find_formulas(sentence):
        return clean(formula_answer(sentence) or "")
    if is_prose(sentence) and re.search(r"\d", sentence):
        return clean(stated_number(sentence) or stated_expression(sentence) or "")
    return clean(sentence)


def _undisputed(answer: str, rest: str) -> str:
    """The answer, unless the text after it ends in another number, or goes over to another letter."""
    if re.fullmatch(r"\(?[A-J]\)?", answer) and set(_OTHER_LETTER.findall(rest)) - {answer.strip("()")}:
        return ""
    if phrases := list(_PHRASE.finditer(rest))[-_PHRASES:]:
        other = _after_phrases(rest, phrases)
        if re.match(NUMBER_WORD, other, re.I):
            return ""
        return answer if other and not _differ(answer, other) else ""
    for sentence in reversed(sentences(rest)):
        if _CLOSING.match(sentence) or _EXPLAINS.match(sentence):
            continue
        if _states(sentence) and (other := _statement(sentence)):
            return "" if _differ(answer, other) else answer
    return answer


def _differ(answer: str, other: str) -> bool:
    """Whether two answers are numbers, and not the same."""
    first, second = (read_numeral(split_unit(one.rpartition("=")[2].strip())[0]) for one in (answer, other))
    return bool(first and second and not equal(first, second))
