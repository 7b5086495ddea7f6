"""What stages and evaluations leave beside their figures, for `katlit report`: answers, metrics, labels."""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from katlit.errors import UserError
from katlit.output import whole_rows

Answers = Sequence[Mapping[str, Any]]  # lines of `responses.jsonl`
Metrics = Sequence[Mapping[str, float]]  # lines of `metrics.jsonl`
Labels = Mapping[str, Any]  # `labels.json`

QUESTIONS = 10
_WORDS = ("question", "reference", "judge", "thinking", "answer")


def utf8_text(file: Path) -> str:
    """The text of a file.

    Raises:
        UserError: where it is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from error


def read_answers(evaluation: Path) -> Answers:
    """The responses beside an evaluation; none where there are none with the words of the questions."""
    file = evaluation.with_name("responses.jsonl")
    if not file.is_file():
        return []
    rows = []
    for number, line in enumerate(utf8_text(file).split("\n"), start=1):
        if line:
            rows.append(_object(line, f"{file}, line {number}"))
    return [row for row in rows if all(name in row for name in _WORDS)]


def read_steps(file: Path) -> Metrics:
    """The metrics of a stage; none where it left none."""
    if not file.is_file():
        sys.stdout.write(f"{file}: no metrics, so the report shows no curves of them\n")
        return []
    return [row for row in whole_rows(file) if isinstance(row.get("step"), int)]


def read_labels(file: Path) -> Labels | None:
    """What became of a stage's questions; None where the labels are older, or were given."""
    if not file.is_file():
        sys.stdout.write(f"{file}: not there, so the report says nothing of these labels\n")
        return None
    return _object(utf8_text(file), str(file))


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object")
    return value


def chosen(answers: Mapping[str, Answers]) -> list[str]:
    """Ten questions that all stages answered, from each family and difficulty in turn; always the same."""
    asked = [{row["prompt_id"]: row for row in of} for of in answers.values() if of]
    if not asked:
        return []
    common = set.intersection(*(set(of) for of in asked))
    levels: dict[tuple[str, int], list[str]] = {}
    for name in sorted(common):
        row = asked[0][name]
        levels.setdefault((row["family"], row["difficulty"]), []).append(name)
    turns = zip_longest(*(levels[level] for level in sorted(levels)))
    return [name for turn in turns for name in turn if name is not None][:QUESTIONS]
