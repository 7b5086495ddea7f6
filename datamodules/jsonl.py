"""JSON Lines, or one JSON array, in; JSON Lines out: errors name file and line, nothing is half written."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from katlit.errors import UserError
from katlit.output import replacing

_DECODER = json.JSONDecoder()
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # half of a character, escaped


class Row(NamedTuple):
    """One JSON object and where it was found, e.g. `data.jsonl:12`."""

    where: str
    values: dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read every JSON object of a file: one a line, or all in one array.

    Raises:
        UserError: if the file is missing, holds something else, or nothing at all.
    """
    text = read_text(path)
    found = _array(path, text) if text.lstrip().startswith("[") else _lines(path, text)
    escaped = _SURROGATE.search(text) is not None
    rows = [Row(where, _object(values, where, escaped=escaped)) for where, values in found]
    if not rows:
        raise UserError(f"{path}: the data set is empty; it needs at least one JSON object, one a line")
    return rows


def read_text(path: Path) -> str:
    """Read a text file; the mark that Windows puts before UTF-8 (BOM) is no part of it.

    Raises:
        UserError: if the file is missing or not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a JSON Lines file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not `splitlines`: JSON may hold other characters that Python takes for the end of a line.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            value, end = _decode(line, len(line) - len(line.lstrip()), where)
            if rest := line[end:].strip():
                raise UserError(f"{where}: malformed JSON at column {end + 1}: extra data {rest!r:.40}")
            yield where, value


def _array(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The elements of an array, each with the line that it begins in."""
    place, line, counted = _skip(text, text.index("[") + 1), 1, 0
    while not text.startswith("]", place):
        line, counted = line + text.count("\n", counted, place), place
        where = f"{path}:{line}"
        value, end = _decode(text, place, where)
        yield where, value
        place = _skip(text, end)
        if text.startswith(",", place):
            place = _skip(text, place + 1)
        elif not text.startswith("]", place):
            raise UserError(f"{path}:{line}: malformed JSON: after this object the array has no , or ]")
    if rest := text[place + 1 :].strip():
        raise UserError(f"{path}: malformed JSON: after the array stands {rest!r:.40}")


def _skip(text: str, place: int) -> int:
    """The place of the next character that is no white space."""
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _decode(text: str, place: int, where: str) -> tuple[Any, int]:
    """The JSON value that begins at a place, and where it ends."""
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        column = error.pos - text.rfind("\n", 0, error.pos)
        raise UserError(f"{where}: malformed JSON at column {column}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise UserError(f"{where}: malformed JSON: {error}") from error


def _object(values: Any, where: str, *, escaped: bool) -> dict[str, Any]:
    """An object without lone surrogates; in UTF-8 they can only be escaped."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(values).__name__}")
    if escaped:
        require_characters(values, where)
    return values


def require_characters(values: Any, where: str) -> None:
    """Refuse halves of characters, which a text of JSON in a column may still hide when a file is read.

    Raises:
        UserError: naming the place and the half.
    """
    try:
        json.dumps(values, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: {error.object[error.start : error.start + 1]!a} is half of a character (a lone "
            "surrogate), which no tokenizer reads; mend or leave out the text that has it"
        ) from error


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line; a reader sees the old file or the whole new one.

    Values that JSON does not know, such as the fractions in some task metadata, become text.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as file:
            for row in rows:  # line by line, for all traces together may be larger than the memory
                file.write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot write ({error.strerror}); choose a writable folder") from error


class Field(NamedTuple):
    """What a field must look like: `accepts` tells, `expected` says it in words."""

    accepts: Callable[[Any], bool]
    expected: str


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


TEXT = Field(lambda value: isinstance(value, str), "text")
INTEGER = Field(_is_integer, "a whole number")
BOOLEAN = Field(lambda value: isinstance(value, bool), "true or false")
NUMBER = Field(lambda value: _is_integer(value) or isinstance(value, float), "a number")
OBJECT = Field(lambda value: isinstance(value, dict), "an object")


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
