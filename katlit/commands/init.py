"""`katlit init`: writes a recipe of your own, from a few questions or flags."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from katlit.commands.settings_files import INSTALLED
from katlit.errors import UserError

RECIPES = {"laptop": "laptop-135m", "one-gpu": "one-gpu-1.5b", "node": "node-7b", "cluster": "cluster-40b"}
_QUESTIONS = {
    "model": "the model that learns, a directory or a name on the hub",
    "teacher": "the chat model that teaches it, likewise",
    "prompts": "file of the questions that all stages learn from",
    "heldout": "file of questions of the same kind that no stage sees",
}
_FILES = ("prompts", "heldout")


def main(arguments: Sequence[str]) -> int:
    """Write a recipe.

    Raises:
        UserError: where a file is in the way or missing, or an answer is and nobody can be asked.
    """
    parser = argparse.ArgumentParser(prog="katlit init", description=__doc__)
    parser.add_argument("--hardware", choices=list(RECIPES), help="that of this machine by default")
    for key, question in _QUESTIONS.items():
        parser.add_argument(f"--{key}", help=question)
    parser.add_argument("--output", type=Path, default=Path("recipe.yaml"), help="never overwritten")
    given = parser.parse_args(list(arguments))
    output: Path = given.output
    if os.path.lexists(output):
        raise UserError(f"output: {output} exists already; give another --output")
    asks = sys.stdin.isatty()
    hardware = given.hardware or _asked("hardware", ", ".join(RECIPES), _here(), asks=asks)
    if hardware not in RECIPES:
        raise UserError(f"hardware: {hardware!r}; choose one of {', '.join(RECIPES)}")
    text = (INSTALLED / f"recipe/{RECIPES[hardware]}.yaml").read_text(encoding="utf-8")
    answers = {"name": output.stem}
    for key, question in _QUESTIONS.items():
        proposed = str(yaml.safe_load(text)[key])
        answers[key] = getattr(given, key) or _asked(key, question, proposed, asks=asks)
    _require_files(answers)
    _write(output, _filled(text, answers))
    sys.stdout.write(
        f"{output} is recipe/{RECIPES[hardware]}.yaml with your answers; read it, then\n"
        f"  katlit run {output} --plan   says what it would do, and whether it fits\n"
        f"  katlit run {output}          does it\n"
    )
    return 0


def _here() -> str:
    """What this machine is."""
    import torch

    return ["laptop", "one-gpu", "node"][min(torch.cuda.device_count(), 2)]


def _asked(key: str, question: str, proposed: str, *, asks: bool) -> str:
    """The answer of whoever sits at the terminal; the proposal where nobody does or nothing is typed."""
    if not asks:
        return proposed
    return input(f"{key} ({question}) [{proposed}]: ").strip() or proposed


def _require_files(answers: dict[str, str]) -> None:
    for key in _FILES:
        if Path(answers[key]).suffix and not Path(answers[key]).is_file():
            raise UserError(
                f"{key}: no file {answers[key]!r} here; give --{key} ({_QUESTIONS[key]}; `docs/data.md` says "
                "what it may be)"
            )
    if answers["prompts"] == answers["heldout"]:
        raise UserError(
            f"heldout: {answers['heldout']!r} is what all stages learn from; keep some questions of it, "
            "a few hundred, in a file of their own"
        )


def _filled(text: str, answers: dict[str, str]) -> str:
    """A recipe with other values of its outermost keys; its comments stay."""
    lines = []
    for line in text.splitlines():
        key, _, rest = line.partition(": ")
        if key in answers:
            value = yaml.safe_dump(answers[key], width=10**6).removesuffix("\n").removesuffix("\n...")
            _, comment, note = rest.partition(" #")
            line = f"{key}: {value}{comment}{note}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _write(output: Path, text: str) -> None:
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileNotFoundError as error:
        raise UserError(f"output: no folder {str(output.parent)!r}; make it, or give another") from error
