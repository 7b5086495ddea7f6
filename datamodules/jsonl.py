"""JSON Lines in and out: every error names the file and the line, nothing is ever half written."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from katlit.errors import UserError
from katlit.output import replace_file


class Row(NamedTuple):
    """One JSON object and where it was found, e.g. `data.jsonl:12`."""

    where: str
    values: dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read every non-empty line of a JSON Lines file.

    Raises:
        UserError: if the file is missing, a line is not a JSON object, or there is no line at all.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a JSON Lines file")
    rows = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(Row(f"{path}:{number}", _parse_object(line, f"{path}:{number}")))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8 JSON Lines") from error
    if not rows:
        raise UserError(f"{path}: the data set is empty; it needs at least one JSON object, one a line")
    return rows


def _parse_object(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: malformed JSON at column {error.colno}: {error.msg}") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(values).__name__}")
    return values


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line; a reader sees the old file or the whole new one.

    Values that JSON does not know, such as the fractions in some task metadata, become text.

    Raises:
        UserError: if the folder cannot be written.
    """
    lines = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lines)
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); choose a writable folder") from error


class Field(NamedTuple):
    """What a field must look like: `accepts` tells, `expected` says it in words."""

    accepts: Callable[[Any], bool]
    expected: str


def _is_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(turn, dict)
            and isinstance(turn.get("role"), str)
            and isinstance(turn.get("content"), str)
            for turn in value
        )
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


TEXT = Field(lambda value: isinstance(value, str), "text")
INTEGER = Field(_is_integer, "a whole number")
BOOLEAN = Field(lambda value: isinstance(value, bool), "true or false")
NUMBER = Field(lambda value: _is_integer(value) or isinstance(value, float), "a number")
OBJECT = Field(lambda value: isinstance(value, dict), "an object")
MESSAGES = Field(_is_messages, "a non-empty list of {role, content} turns")


def check_field(row: Row, name: str, field: Field) -> Any:
    """Return a field of a row.

    Raises:
        UserError: if it is absent or of another type, naming file, line, field and value.
    """
    if name not in row.values:
        raise UserError(f"{row.where}: required field '{name}' is missing; found {sorted(row.values)}")
    value = row.values[name]
    if not field.accepts(value):
        raise UserError(f"{row.where}: field '{name}' must be {field.expected}, found {value!r:.80}")
    return value
