"""Tags by plain rules, for where no model is to be asked (our choice)."""

import re
from dataclasses import dataclass

from katlit.batch import Prompt
from katlit.datamodules.tagging.tags import CALLS, HARDEST, MATH, NONE, PROGRAM, TEXT, Tags
from katlit.errors import require

_CODE = re.compile(r"```|\b(?:def|function|class|return|python|javascript|c\+\+|sql|program|compile)\b", re.I)
_MATH = re.compile(
    r"\\[a-z]+|[=+*/^√∑∫×÷]|\d\s*-\s*\d|\b(?:how many|how much|solve|equation|prove|sum|product|integral"
    r"|triangle|probability|percent|average|ratio|remainder|divisib\w+)\b",
    re.I,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_HARD = re.compile(
    r"\b(?:prove|proof|derive|optimal|algorithm|complexity|show that|step by step|explain why)\b", re.I
)
_SOLUTION = re.compile(r"\\boxed|####|^\s*\$?-?\d[\d.,/ ]*%?\s*$")
_BY_VERIFIER = {"math": MATH, "code": PROGRAM, "tool_calls": CALLS}
_LONG = 10  # words; nobody writes a longer answer twice in the same words


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class RuleTagger:
    """Tags queries by their own fields, and by their text where a field is empty.

    Attributes:
        think_from: Difficulty from which a query is said to need reasoning.
    """

    think_from: int = 3

    def __post_init__(self) -> None:
        """Refuse what is no difficulty."""
        require(1 <= self.think_from <= HARDEST, "think_from", self.think_from, f"1 to {HARDEST}")

    def tag(self, prompt: Prompt) -> Tags:
        """Tag a query."""
        text = "\n".join(
            str(turn.get("content") or "") for turn in prompt["messages"] if turn["role"] == "user"
        )
        difficulty = min(max(1, prompt["difficulty"] or _difficulty(text)), HARDEST)
        how = _how(prompt)
        domain = prompt["domain"].strip().casefold() or _domain(text)
        return Tags(difficulty >= self.think_from, domain, difficulty, how != NONE, how)


def _domain(text: str) -> str:
    if _CODE.search(text):
        return "code"
    return "math" if _MATH.search(text) else "other"


def _difficulty(text: str) -> int:
    """More numbers, more words and words of proof make a question harder."""
    numbers, words = len(_NUMBER.findall(text)), len(text.split())
    return 1 + (numbers > 2) + (numbers > 4) + (words > 60) + 2 * bool(_HARD.search(text))


def _how(prompt: Prompt) -> str:
    """What checks an answer, by the verifier and the looks of the reference."""
    reference, verifier = prompt["reference"].strip(), prompt["verifier"]
    if verifier != "match":
        return _BY_VERIFIER.get(verifier, TEXT) if reference or verifier not in _BY_VERIFIER else NONE
    if not reference:
        return NONE
    if _SOLUTION.search(reference):
        return MATH
    return TEXT if len(reference.split()) <= _LONG else NONE
