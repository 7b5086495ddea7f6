"""How a model with a chat template of its own thinks: when told, always, or never; pure functions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from katlit.errors import UserError, require
from katlit.text.rendering import TEMPLATE_ERRORS, needed_variables, render

Messages = list[dict[str, Any]]
Tools = Sequence[dict[str, Any]] | None
Habit = Literal["switch", "always", "never"]

PROBE_QUESTIONS = (
    "What is 17 + 25?",
    "Anna has 3 boxes of 12 eggs and breaks 5 eggs. How many are left?",
    "Which is larger, 9.9 or 9.11?",
    "What is the capital of France?",
)
PROBE_TOKENS = 64  # a thought begins at once, or not at all

_SYSTEM = "Answer in one word."  # looked for in what a template makes of it
_SWITCHES: tuple[tuple[str, Any, Any], ...] = (
    ("enable_thinking", True, False),
    ("thinking", True, False),
    ("reasoning_effort", "high", "none"),
    ("reasoning_effort", "high", "low"),
)


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class ThinkingSettings:
    """How models that do not speak our protocol are made to think, and not to.

    Attributes:
        habit: `switch`: the chat template is told by variables. `always`: the model thinks unless its thought
            is closed for it, empty. `never`: it is asked to reason step by step, and what it writes before
            `marker` is its thought. `probe`: what the template tells, else what the model does when asked.
        variables_on: Variables of the template for thinking; if none are given, `enable_thinking`,
            `thinking` and `reasoning_effort` are tried.
        variables_off: Variables of the template for not thinking.
        opening: What begins a thought.
        closing: What ends a thought.
        instruction: Follows the question where a model that never thinks is to reason; holds the marker.
        marker: Parts the reasoning of such a model from its answer.
    """

    habit: Literal["probe", "switch", "always", "never"] = "probe"
    variables_on: dict[str, Any] = field(default_factory=dict)
    variables_off: dict[str, Any] = field(default_factory=dict)
    opening: str = "<think>"
    closing: str = "</think>"
    instruction: str = (
        "Reason step by step. Then write the line\nFinal answer:\nand below it only the final answer."
    )
    marker: str = "Final answer:"

    def __post_init__(self) -> None:
        """Refuse marks that are empty, and an instruction that does not ask for the marker."""
        for key in ("opening", "closing", "marker"):
            require(getattr(self, key).strip() != "", f"thinking.{key}", getattr(self, key), "some text")
        asks = self.marker in self.instruction
        require(asks, "thinking.instruction", repr(self.instruction), f"one with the marker {self.marker!r}")


@dataclass(frozen=True, slots=True)
class Habits:
    """What is known of a model.

    Attributes:
        habit: How it thinks.
        certain: Whether its template or the user says so; else it is a guess until the model was asked.
        needed: Variables that its template wants in any case.
        on: Further ones for thinking.
        off: Further ones for not thinking.
        system: Whether its template knows system turns.
    """

    habit: Habit
    certain: bool
    needed: dict[str, Any]
    on: dict[str, Any]
    off: dict[str, Any]
    system: bool


def read_template(tokenizer: Any, name: str, settings: ThinkingSettings) -> Habits:
    """Find out from a chat template how its model is spoken to.

    Args:
        tokenizer: One with a chat template.
        name: The model, for messages.
        settings: What is known already.

    Raises:
        UserError: where the template renders no user turn, or is to be switched and knows no switch.
    """
    needed = needed_variables(tokenizer, name)
    on, off = _switch(tokenizer, needed, settings)
    given = list(dict.fromkeys([*settings.variables_on, *settings.variables_off]))
    if (settings.habit == "switch" or given) and on == off:
        usual = list(dict.fromkeys(variable for variable, *_ in _SWITCHES))
        raise UserError(
            f"thinking.habit: {settings.habit}, but the chat template of {name} writes the same prompt for "
            f"all values of {', '.join(given or usual)}; give other thinking.variables_on and variables_off, "
            "or a habit without"
        )
    if settings.habit == "probe":
        habit, certain = _told(tokenizer, needed, on, off, settings)
    else:
        habit, certain = settings.habit, True
    return Habits(habit, certain, needed, on, off, _knows_system(tokenizer, needed))


def _switch(
    tokenizer: Any, needed: dict[str, Any], settings: ThinkingSettings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first variables that make a difference; none at all if no variables do."""
    given = settings.variables_on, settings.variables_off
    usual = [({name: yes}, {name: no}) for name, yes, no in _SWITCHES]
    for on, off in [given] if any(given) else usual:
        prompts = [_rendered(tokenizer, needed | variables) for variables in (on, off)]
        if None not in prompts and prompts[0] != prompts[1]:
            return on, off
    return {}, {}


def _told(
    tokenizer: Any,
    needed: dict[str, Any],
    on: dict[str, Any],
    off: dict[str, Any],
    settings: ThinkingSettings,
) -> tuple[Habit, bool]:
    """What the template itself shows: a thought that is open, or closed, at the end of the prompt."""
    thinking, direct = (str(_rendered(tokenizer, needed | each)).rstrip() for each in (on, off))
    if direct.endswith(settings.opening):
        return "always", True
    if on != off:
        return "switch", thinking.endswith(settings.opening) or direct.endswith(settings.closing)
    return ("always" if settings.opening in tokenizer.get_vocab() else "never"), False


def _rendered(tokenizer: Any, variables: dict[str, Any]) -> str | None:
    try:
        return render(tokenizer, [{"role": "user", "content": "?"}], **variables)
    except TEMPLATE_ERRORS:  # a value that it does not know
        return None


def _knows_system(tokenizer: Any, needed: dict[str, Any]) -> bool:
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "?"}]
    try:
        return _SYSTEM in render(tokenizer, turns, **needed)
    except TEMPLATE_ERRORS:
        return False


def habit_of(thoughts_on: Sequence[bool], thoughts_off: Sequence[bool], *, switches: bool) -> Habit:
    """Decide how a model thinks by which of a model's replies had a thought.

    Args:
        thoughts_on: Where it was to think.
        thoughts_off: Where it was not.
        switches: Whether its template has variables for it.
    """
    if 2 * sum(thoughts_on) < len(thoughts_on):
        return "never"
    return "switch" if switches and 2 * sum(thoughts_off) < len(thoughts_off) else "always"


def merge_system(messages: Messages) -> Messages:
    """Put system turns before the text of the user turns that follow them."""
    turns: Messages = []
    pending = ""
    for turn in messages:
        if turn["role"] == "system":
            pending += f"{turn['content']}\n\n"
        elif turn["role"] == "user":
            turns.append({**turn, "content": pending + turn["content"]})
            pending = ""
        else:
            turns.append(turn)
    return [*turns, {"role": "user", "content": pending.strip()}] if pending else turns


def instruct(messages: Messages, instruction: str) -> Messages:
    """Put an instruction after the last user turn."""
    last = max((place for place, turn in enumerate(messages) if turn["role"] == "user"), default=None)
    return [
        {**turn, "content": f"{turn['content']}\n\n{instruction}"} if place == last else turn
        for place, turn in enumerate(messages)
    ]


# A sentence that states the answer, or GSM8K's line of it, which is the last: others are headings.
_CONCLUSION = re.compile(
    r"(?:^|(?<=[.!?]))[ \t*_]*"
    r"(?:(?:(?:so|thus|hence|therefore|now)\b,?\s+)?the\s+(?:final\s+)?answer\s+is\b|####(?=[^\n]+\s*\Z))",
    re.IGNORECASE | re.MULTILINE,
)


def split_steps(text: str, marker: str) -> tuple[str, str] | None:
    """Part a reply into reasoning and answer at its last marker, which may be in bold.

    Small models often forget the marker. The last sentence that states the answer then takes its place, if
    there is reasoning before it (our choice); None without either.
    """
    all_found = _markers(text, marker)
    if not all_found:
        stated = [found for found in _CONCLUSION.finditer(text) if text[: found.start()].strip()]
        return (text[: stated[-1].start()].strip(), text[stated[-1].start() :].strip()) if stated else None
    found = all_found[-1]
    answer = text[found.end() :].strip()
    if found["opened"] and not found["inner"] + found["closed"]:  # `**Final answer: 5**`
        answer = answer.removesuffix(found["opened"]).rstrip()
    return text[: found.start()].strip(), answer


def _markers(text: str, marker: str) -> list[re.Match[str]]:
    words = r"\s+".join(map(re.escape, marker.rstrip(":").split()))
    colon = r"\s*(?P<inner>[*_]*)\s*:" if marker.rstrip().endswith(":") else "(?P<inner>)"
    pattern = rf"[#>\s]*(?P<opened>[*_]*)\s*{words}{colon}(?P<closed>[*_]*)"
    return list(re.finditer(pattern, text, re.IGNORECASE))
