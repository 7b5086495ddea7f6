r"""What a response is, and how it is read: markers, modes, violations and the parser (recipe §1).

The parser works on *pieces*: texts and marks (markers or chat tokens) in turn, so one state machine serves
plain text, where marks are recognised by their spelling, and token ids, where only ids count.

The parser never raises. It returns all that it found and the violation that comes first in the sequence; what
is missing counts where something else stands in its place, or at the end. Names, order and recovery are our
choice:

| place           | next mark   | text there        | if the end comes    | if another comes: the same, or |
|-----------------|-------------|-------------------|---------------------|--------------------------------|
| judge text      | </judge>    | is the judge      | missing_judge_close | mode, <think>, <answer>        |
| after </judge>  | mode        | text_before_mode  | missing_mode        | <think>, <answer>              |
| after think_on  | <think>     | text_between      | missing_think       | <answer>                       |
| after think_off | <answer>    | text_between      | missing_answer      | <think>: think_after_think_off |
| thinking        | </think>    | is the thinking   | unclosed_think      | <answer>                       |
| after </think>  | <answer>    | text_between      | missing_answer      |                                |
| answer          | </answer>   | is the answer     | unclosed_answer     |                                |
| after </answer> | the end     | text_after_answer |                     |                                |
| after the end   |             | text_after_answer |                     |                                |

- The marks of the last column take the parser to where they belong, so that an answer is found even after an
  unclosed thinking.
- Any other mark changes nothing but is reported: a mode marker as duplicate_mode, the rest (chat tokens, a
  marker out of place) as unexpected_marker; inside judge, thinking or answer its spelling stays in the text.
- White space between marks is free; one `\n` right inside a marker is framing and not part of the content.
- A response that was cut by the length limit is `truncated` instead of missing or unclosed, and also where it
  is complete. A violation before the cut still comes first.
- Where tools were offered, calls in the answer are checked too, see `katlit.text.tool_calls`. Their faults
  count last.
- The end token may be absent (it is, after decoding without special tokens).
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Literal

from katlit.errors import UserError
from katlit.text.tool_calls import split_answer

MARKERS = ("<judge>", "</judge>", "<think_on>", "<think_off>", "<think>", "</think>", "<answer>", "</answer>")
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
MARKS = (*MARKERS, TURN_START, TURN_END)
# Invisible; a prepared tokenizer decodes each mark with it, so that a text tells a mark from its spelling.
MARK_SIGN = "\u2063"

Thinking = Literal["auto", "on", "off"]


class Mode(StrEnum):
    """Whether a response thinks before it answers."""

    THINK_ON = "on"
    THINK_OFF = "off"

    @property
    def marker(self) -> str:
        """`<think_on>` or `<think_off>`."""
        return f"<think_{self.value}>"


class Violation(StrEnum):
    """What is wrong with a response; see the table at the head of this file."""

    MISSING_JUDGE_CLOSE = auto()
    TEXT_BEFORE_MODE = auto()
    MISSING_MODE = auto()
    DUPLICATE_MODE = auto()
    THINK_AFTER_THINK_OFF = auto()
    MISSING_THINK = auto()
    UNCLOSED_THINK = auto()
    TEXT_BETWEEN = auto()
    MISSING_ANSWER = auto()
    UNCLOSED_ANSWER = auto()
    TEXT_AFTER_ANSWER = auto()
    UNEXPECTED_MARKER = auto()
    TRUNCATED = auto()
    UNCLOSED_TOOL_CALL = auto()
    MALFORMED_TOOL_CALL = auto()
    UNKNOWN_TOOL = auto()
    TEXT_AFTER_TOOL_CALL = auto()


@dataclass(frozen=True, slots=True)
class Response:
    """A well-formed response; any text may stand in its fields.

    Attributes:
        judge: Why the query does, or does not, need reasoning.
        mode: The mode chosen.
        answer: What the user reads.
        think: The chain of thought; empty with think-off.

    Raises:
        UserError: where a think-off response has a chain of thought.
    """

    judge: str
    mode: Mode
    answer: str
    think: str = ""

    def __post_init__(self) -> None:
        """Refuse what the protocol cannot express."""
        if self.mode is Mode.THINK_OFF and self.think:
            raise UserError(
                f"response: mode 'off' with thinking {self.think[:40]!r}; leave it empty or use 'on'"
            )


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """What was found in a response, well-formed or not.

    Attributes:
        judge: Judge text; empty if there is none.
        mode: The mode, if its marker stands where it belongs.
        think: Chain of thought, as far as it goes; empty if there is none.
        answer: Answer, as far as it goes; None where `<answer>` never came.
        violation: The first violation; None for a well-formed response.
    """

    judge: str
    mode: Mode | None
    think: str
    answer: str | None
    violation: Violation | None

    @property
    def valid(self) -> bool:
        """Whether the response is well-formed."""
        return self.violation is None


class _State(Enum):
    JUDGE = auto()
    BEFORE_MODE = auto()
    BEFORE_THINK = auto()
    AFTER_OFF = auto()
    THINK = auto()
    BEFORE_ANSWER = auto()
    ANSWER = auto()
    DONE = auto()
    ENDED = auto()


_ON, _OFF = Mode.THINK_ON.marker, Mode.THINK_OFF.marker
_AFTER_MODE = {Mode.THINK_ON: _State.BEFORE_THINK, Mode.THINK_OFF: _State.AFTER_OFF}
_CONTENT = (_State.JUDGE, _State.THINK, _State.ANSWER)


def _early(violation: Violation, *marks: str) -> dict[str, tuple[_State, Violation | None]]:
    """Marks that come before something else is complete, and where they lead nevertheless."""
    leads = {
        _ON: _State.BEFORE_THINK,
        _OFF: _State.AFTER_OFF,
        "<think>": _State.THINK,
        "<answer>": _State.ANSWER,
    }
    return {mark: (leads[mark], violation) for mark in marks}


_MOVES: dict[_State, dict[str, tuple[_State, Violation | None]]] = {
    _State.JUDGE: {"</judge>": (_State.BEFORE_MODE, None)}
    | _early(Violation.MISSING_JUDGE_CLOSE, _ON, _OFF, "<think>", "<answer>"),
    _State.BEFORE_MODE: {_ON: (_State.BEFORE_THINK, None), _OFF: (_State.AFTER_OFF, None)}
    | _early(Violation.MISSING_MODE, "<think>", "<answer>"),
    _State.BEFORE_THINK: {"<think>": (_State.THINK, None)} | _early(Violation.MISSING_THINK, "<answer>"),
    _State.AFTER_OFF: {"<answer>": (_State.ANSWER, None)}
    | _early(Violation.THINK_AFTER_THINK_OFF, "<think>"),
    _State.THINK: {"</think>": (_State.BEFORE_ANSWER, None)} | _early(Violation.UNCLOSED_THINK, "<answer>"),
    _State.BEFORE_ANSWER: {"<answer>": (_State.ANSWER, None)},
    _State.ANSWER: {"</answer>": (_State.DONE, None)},
    _State.DONE: {},
    _State.ENDED: {},
}
_STRAY_TEXT = {
    _State.BEFORE_MODE: Violation.TEXT_BEFORE_MODE,
    _State.BEFORE_THINK: Violation.TEXT_BETWEEN,
    _State.AFTER_OFF: Violation.TEXT_BETWEEN,
    _State.BEFORE_ANSWER: Violation.TEXT_BETWEEN,
    _State.DONE: Violation.TEXT_AFTER_ANSWER,
    _State.ENDED: Violation.TEXT_AFTER_ANSWER,
}
_EARLY_END = {
    _State.JUDGE: Violation.MISSING_JUDGE_CLOSE,
    _State.BEFORE_MODE: Violation.MISSING_MODE,
    _State.BEFORE_THINK: Violation.MISSING_THINK,
    _State.AFTER_OFF: Violation.MISSING_ANSWER,
    _State.THINK: Violation.UNCLOSED_THINK,
    _State.BEFORE_ANSWER: Violation.MISSING_ANSWER,
    _State.ANSWER: Violation.UNCLOSED_ANSWER,
}


@dataclass(slots=True)
class _Reader:
    """The state machine; fed with texts and marks in turn."""

    state: _State = _State.JUDGE
    mode: Mode | None = None
    violation: Violation | None = None
    contents: dict[_State, str] = field(default_factory=dict)

    def report(self, violation: Violation | None) -> None:
        self.violation = self.violation or violation

    def text(self, text: str) -> None:
        if self.state in _CONTENT:
            self.contents[self.state] = self.contents.get(self.state, "") + text
        elif text.strip():
            self.report(_STRAY_TEXT[self.state])

    def mark(self, mark: str) -> None:
        if mark == TURN_END and self.state is not _State.ENDED:
            self.report(_EARLY_END.get(self.state))
            self.state = _State.ENDED
        elif mark in _MOVES[self.state]:
            self.state, violation = _MOVES[self.state][mark]
            self.report(violation)
            if mark in (_ON, _OFF):
                self.mode = Mode.THINK_ON if mark == _ON else Mode.THINK_OFF
        else:
            self.report(Violation.DUPLICATE_MODE if mark in (_ON, _OFF) else Violation.UNEXPECTED_MARKER)
            if self.state in _CONTENT:
                self.text(mark)

    def finish(self, *, truncated: bool) -> None:
        self.report(Violation.TRUNCATED if truncated else _EARLY_END.get(self.state))


def parse_pieces(
    pieces: Sequence[str],
    *,
    truncated: bool,
    judge_opened: bool = False,
    forced: tuple[Mode, str] | None = None,
    offered: Collection[str] | None = None,
) -> ParsedResponse:
    r"""Read a response that is already cut at its marks.

    Args:
        pieces: Text, mark, text, …, text; an odd number of them.
        truncated: Whether the length limit ended the response.
        judge_opened: Whether the pieces begin right after a `<judge>`, with the `\n` after it still to come.
        forced: Mode and judge text that the prompt held already; the pieces then begin after the mode marker.
        offered: Names of the tools that may be called; without them calls are not looked for.
    """
    reader = _Reader()
    if forced is not None:
        reader.mode, reader.contents[_State.JUDGE] = forced
        reader.state = _AFTER_MODE[forced[0]]
    for text, mark in zip(pieces[::2], pieces[1::2], strict=False):
        reader.text(text)
        reader.mark(mark)
    reader.text(pieces[-1])
    reader.finish(truncated=truncated)
    judge = reader.contents.get(_State.JUDGE, "").removeprefix("\n" if judge_opened else "")
    found = reader.contents.get(_State.ANSWER)
    answer = None if found is None else unframe(found)
    if answer is not None and offered is not None and (fault := split_answer(answer, offered).fault):
        reader.report(Violation(fault.value))
    return ParsedResponse(
        judge=judge.removesuffix("\n"),
        mode=reader.mode,
        think=unframe(reader.contents.get(_State.THINK, "")),
        answer=answer,
        violation=reader.violation,
    )


def unframe(text: str) -> str:
    """Take the framing off a content: one line break on each side, where there is one."""
    return text.removeprefix("\n").removesuffix("\n")


_MARKS = re.compile(f"{MARK_SIGN}?({'|'.join(map(re.escape, MARKS))})")


def parse(text: str, *, truncated: bool = False, offered: Collection[str] | None = None) -> ParsedResponse:
    """Read a response from plain text, with or without the opening `<judge>`.

    Markers are known by their spelling, so content that holds one leads to a violation.

    Args:
        text: What `render` writes, or what was generated after an auto prompt.
        truncated: Whether the length limit ended the response.
        offered: Names of the tools that may be called; without them calls are not looked for.
    """
    pieces = _MARKS.split(text)
    opened = len(pieces) > 1 and pieces[1] == "<judge>" and not pieces[0].strip()
    return parse_pieces(
        pieces[2:] if opened else pieces, truncated=truncated, judge_opened=opened, offered=offered
    )
