"""What is looked at in a reply without asking anybody; pure functions, and all rules are our choice."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from katlit.batch import Prompt
from katlit.datamodules.agents.templates import conversation_text
from katlit.datamodules.dialects.dialects import ballot_of
from katlit.rewards.language import letters_by_script
from katlit.text.protocol import Mode

_FENCE = "```"
_HALF = re.compile("[\ud800-\udfff]")  # of a character, which JSON may escape and no file can hold
_REASONS = 600  # characters of a critic's reasons that the thinker gets to read
_JUDGE = 200  # characters of a judge text
_LEAST = 3  # words of one
_FOREIGN = 0.5  # share of the letters that may be of other scripts
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)  # has a script of its own
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_CALCULATION = re.compile(r"=|\d\s*[-+*/×·÷^]\s*\d")
_WORD = re.compile(r"\w+")
_EASY = re.compile(r"\b(?:directly|at once|trivial|no (?:multi-step )?reasoning|no steps)\b", re.I)
_HARD = re.compile(r"\b(?:(?:several|many|multiple|careful) (\w+ )?(?:steps|reasoning)|multi-?step)\b", re.I)
_NOT = re.compile(r"\b(?:not|no|without|n't|never|isn't|doesn't)\b", re.I)


class Score(NamedTuple):
    """What a critic says."""

    value: int
    reasons: str


def read_score(text: str) -> Score | None:
    """Read a critic's reply: one JSON object with a score from 1 to 5 and reasons, in a fence or bare.

    Returns:
        The score; None for anything else.
    """
    try:
        found = json.loads(_unfenced(text.strip()))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    value, reasons = found.get("score"), found.get("reasons")
    if type(value) is not int or not 1 <= value <= 5 or not isinstance(reasons, str):
        return None
    return Score(value, _HALF.sub("\ufffd", " ".join(reasons.split())[:_REASONS]))


def _unfenced(text: str) -> str:
    """What a fence holds; no pattern, for these try each of a thousand line breaks as its edge."""
    first, _, rest = text.partition("\n")
    opened = first.rstrip().lower() in (_FENCE, f"{_FENCE}json")
    return rest.removesuffix(_FENCE) if opened and rest.endswith(_FENCE) else text


def scripts_of(prompt: Prompt) -> frozenset[str]:
    """The scripts of a question and its reference."""
    asked = str(prompt["messages"][-1].get("content") or "")
    return frozenset(letters_by_script(f"{asked}\n{prompt['reference']}"))


def is_foreign(known: frozenset[str], text: str) -> bool:
    """Whether most letters of a text are of other scripts than those of its question, if that has any."""
    written = letters_by_script(_CODE.sub(" ", text))
    if not known or not written:
        return False
    foreign = sum(count for script, count in written.items() if script not in known)
    return foreign > _FOREIGN * written.total()


def slip(prompt: Prompt, think: str, unsaid: Sequence[str]) -> str | None:
    """The first word of a chain of thought that speaks of what its reader does not see.

    Args:
        prompt: The question; words that it has are its own.
        think: The chain of thought.
        unsaid: Such words, in lower case.
    """
    lowered = think.lower()
    if not any(word in lowered for word in unsaid):  # quick, and nearly always so
        return None
    asked = set(_WORD.findall(conversation_text(prompt).lower()))
    said = set(_WORD.findall(lowered))
    return next((word for word in unsaid if word in said and word not in asked), None)


def read_judge(text: str, mode: Mode, prompt: Prompt, answer: str) -> tuple[str, str | None]:
    """Read a judge writer's reply.

    Args:
        text: What the agent wrote.
        mode: The mode that it was to explain.
        prompt: The question.
        answer: The answer to it.

    Returns:
        The sentence, and what is wrong with it: None if it agrees with the mode, and holds neither the
        answer nor a step towards it.
    """
    ballot = ballot_of(text.strip())
    if ballot is None or ballot.mode is not mode:
        return "", "it does not begin with the decision that was told"
    reason = ballot.reason
    reason = reason[:1].upper() + reason[1:]
    return reason, _judge_fault(reason, mode, prompt, answer)


def _judge_fault(reason: str, mode: Mode, prompt: Prompt, answer: str) -> str | None:
    question = conversation_text(prompt)
    if len(reason.split()) < _LEAST or len(reason) > _JUDGE or not reason.isprintable():
        return f"it is no line of at least {_LEAST} words and at most {_JUDGE} characters"
    if "<" in reason or ">" in reason:
        return "it holds a mark"
    if _CALCULATION.search(reason):
        return "it calculates"
    if set(_NUMBER.findall(reason)) - set(_NUMBER.findall(question)):
        return "it holds a number that the question has not"
    if any(_holds(reason, told) and not _holds(question, told) for told in (prompt["reference"], answer)):
        return "it holds the answer"
    against = _EASY if mode is Mode.THINK_ON else _HARD
    if against.search(reason) and not _NOT.search(reason):
        return "it speaks for the other mode"
    return None


def _holds(text: str, told: str) -> bool:
    """Whether a text has all words of another one, one after the other."""
    words = _WORD.findall(told.lower())
    return bool(words) and f" {' '.join(words)} " in f" {' '.join(_WORD.findall(text.lower()))} "
