"""Rows of JSON Lines, a JSON array, CSV, parquet, or a data set of a model hub."""

import csv
from io import StringIO
from pathlib import Path
from typing import Any

from katlit.datamodules.jsonl import Row, read_rows, read_text
from katlit.errors import UserError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_FILES = ".jsonl, .json, .csv, .tsv or .parquet file"


def read_table(name: str, config: str | None, split: str) -> list[Row]:
    """Read a file, by its suffix, or a data set of a hub; absent values are left out of the rows.

    Files of text are read by ourselves: `datasets` gives objects the keys of other rows, and names no lines.

    Args:
        name: Path of a file, or the id of a hub data set.
        config: Configuration of a hub data set.
        split: Split of a hub data set.

    Raises:
        UserError: if it cannot be read, or is empty.
    """
    path = Path(name)
    if path.suffix in {".jsonl", ".json"}:
        rows = read_rows(path)
    elif path.suffix in _DELIMITERS:
        rows = _csv(path, _DELIMITERS[path.suffix])
    else:
        rows = _library(name, path, config, split)
    if not rows:
        raise UserError(f"{name}: the data set is empty; it needs at least one row")
    return [
        Row(row.where, {key: value for key, value in row.values.items() if value is not None}) for row in rows
    ]


def _csv(path: Path, delimiter: str) -> list[Row]:
    """Rows by the first line's names; an empty cell is an absent value."""
    reader = csv.reader(StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    names: list[str] = []
    line = 0  # that the row before ends in: a cell may hold line breaks
    try:
        for cells in reader:
            where, line = f"{path}:{line + 1}", reader.line_num
            if len(cells) > len(names) > 0:
                raise UserError(f"{where}: it has more cells than the first line names columns; quote commas")
            if names and cells:
                rows.append(
                    Row(where, {name: text or None for name, text in zip(names, cells, strict=False)})
                )
            names = names or _names(cells, where)
    except csv.Error as error:
        raise UserError(f"{path}:{line + 1}: malformed CSV: {error}; or save it as .jsonl") from error
    return rows


def _names(cells: list[str], where: str) -> list[str]:
    """The names of the columns, each once."""
    twice = sorted({name for name in cells if name and cells.count(name) > 1})
    if twice:
        raise UserError(f"{where}: two columns are named {twice[0]!r:.80}; rename one of them")
    return cells


def _library(name: str, path: Path, config: str | None, split: str) -> list[Row]:
    """Rows of what only the library `datasets` reads."""
    if path.suffix == ".parquet" and not path.is_file():
        raise UserError(f"{name}: no such file; give a {_FILES}, or a hub id")
    if path.suffix != ".parquet" and (path.exists() or name.count("/") > 1 or path.is_absolute()):
        raise UserError(f"{name}: not a {_FILES}, nor a hub id such as owner/name")
    import datasets

    try:
        if path.suffix == ".parquet":
            table = datasets.Dataset.from_parquet(name, keep_in_memory=True)
        else:
            table = datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: cannot be read ({reason}); check the path, the id, split and config"
        ) from error
    return [Row(f"{name}, row {index}", _without_none(row)) for index, row in enumerate(table)]


def _without_none(value: Any) -> Any:
    """Undo Arrow's filling: absent columns and absent keys of a struct come back as None, in lists too."""
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value
