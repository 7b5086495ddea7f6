"""What `katlit run` tells: what each step is for, where its result lies, and a table of what became of it."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

_WHAT = {
    "label-distill": "the teacher answers each question with and without thinking; what is right is kept",
    "distill": "stage 1, the student learns how its teacher answers, with and without thinking",
    "label-cold_start": "the student answers each question in both modes; votes say where thinking pays",
    "cold_start": "stage 2, the student learns to judge a question first, and to choose a mode",
    "step_srpo": "stage 3, rewards for the mode and for the answer teach it to choose and to answer better",
}
_EVALUATED = (
    "the model {when}, asked three ways: left to decide (auto), made to think (on), kept from it (off)"
)
_EVALUATE = "evaluate-"
_COLUMNS = {  # of the table -> key in `report.json`, format
    "accuracy": ("accuracy", ".3f"), "tokens": ("mean_tokens", ".1f"), "think rate": ("think_rate", ".2f"),
}  # fmt: skip


class Story:
    """Numbers the steps, and says what each is for, where its result lies and how long it took.

    Args:
        steps: How many there are.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._number = 0

    def begin(self, name: str) -> None:
        """Head a step."""
        self._number += 1
        _write(f"\n{self._place()} {name}: {what(name)}\n")

    def skip(self, name: str) -> None:
        """Name a step that needs no doing."""
        self._number += 1
        _write(f"{name}: done before\n")

    def end(self, name: str, seconds: float, writes: object) -> None:
        """Close a step."""
        _write(f"{self._place()} {name}: done in {clock(seconds)}, see {writes}\n")

    def _place(self) -> str:
        return f"[{self._number}/{self._steps}]"


def what(name: str) -> str:
    """What a step does and why."""
    if not name.startswith(_EVALUATE):
        return _WHAT.get(name, "a step of the recipe")
    stage = name.removeprefix(_EVALUATE)
    return _EVALUATED.format(when="before all stages" if stage == "base" else f"after {stage}")


def clock(seconds: float) -> str:
    """A time as `0:03:12`."""
    return str(timedelta(seconds=round(seconds)))


def table(history: Mapping[str, Mapping[str, Any]]) -> str:
    """Each policy's figures before and after, in a terminal; empty where nothing was evaluated.

    Args:
        history: The policies' figures after each stage, in order, as `report.json` has them.
    """
    if not history:
        return ""
    names = list(history)
    stages = [history[name] for name in dict.fromkeys((names[0], names[-1]))]
    rows = [
        [
            policy,
            *(" -> ".join(f"{of[policy][key]:{form}}" for of in stages) for key, form in _COLUMNS.values()),
        ]
        for policy in stages[-1]
        if policy in stages[0]
    ]
    rows = [["policy", *_COLUMNS], *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.rjust, row, widths)) for row in rows)
    heading = names[0] if len(names) == 1 else f"from {names[0]} to {names[-1]}"
    return f"{heading}:\n" + "".join(f"{line}\n" for line in lines)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
