"""Which of a data set's columns is which field of ours."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from katlit.datamodules.jsonl import Row
from katlit.errors import UserError

FIELDS = (
    "id",
    "messages",
    "conversations",
    "prompt",
    "question",
    "instruction",
    "system",
    "reference",
    "verifier",
    "domain",
    "difficulty",
    "metadata",
    "tools",
)
# Where a query is looked for, most telling first. Alpaca's `input` goes with its `instruction`.
_QUERIES = ("messages", "conversations", "prompt", "question", "instruction")
# Where else a field is looked for: verl's place, and OpenAI's former name.
_ELSEWHERE = {"reference": "reward_model.ground_truth", "tools": "functions"}


class Query(NamedTuple):
    """What a row asks."""

    column: str  # as the data set calls it
    value: Any
    turns: bool  # whether a text would have to be turns as JSON


class Columns:
    """Finds our fields in rows: a column that the user named wins over one that merely bears our name.

    Args:
        named: Columns by our field names; a dotted path reaches into objects and lists, null leaves a field
            out even where a column of its name is there.

    Raises:
        UserError: where a field is none of ours, or several columns are named for the query.
    """

    def __init__(self, named: Mapping[str, str | None]) -> None:
        unknown = sorted(named.keys() - set(FIELDS))
        if unknown:
            raise UserError(f"FilePrompts: columns names no field of ours: {unknown}; known: {list(FIELDS)}")
        self._named = named
        queries = [field for field in _QUERIES if named.get(field)]
        if len(queries) > 1:
            raise UserError(
                f"FilePrompts: columns names {queries}, but a row has one query; name one of them"
            )
        self._query = queries[0] if queries else None

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse a name that no row has.

        Raises:
            UserError: naming what there is instead.
        """
        for field, column in self._named.items():
            if column is not None and all(_reach(row.values, column) is None for row in rows):
                raise UserError(
                    f"{rows[0].where}: column '{column}', named for '{field}', is missing; "
                    f"found {sorted(rows[0].values)}"
                )

    def value(self, row: Row, field: str) -> Any:
        """What a row has for a field; None where it has nothing."""
        column = self.column(row, field)
        return None if column is None else _reach(row.values, column)

    def column(self, row: Row, field: str) -> str | None:
        """Where a row has a field, as the data set calls it; None where it is left out."""
        if field in self._named:
            return self._named[field]
        return field if row.values.get(field) is not None else _ELSEWHERE.get(field, field)

    def query(self, row: Row) -> Query:
        """Find a row's query.

        Raises:
            UserError: where it has none.
        """
        left = [field for field in _QUERIES if self._named.get(field, field) is not None]
        for field in [self._query] if self._query else left:
            found, column = self.value(row, field), self._named.get(field) or field
            if found is not None:
                turns = field in ("messages", "conversations")
                return Query(column, _with_input(row, found) if column == "instruction" else found, turns)
        wanted = (
            f"column '{self._named[self._query]}', named for '{self._query}',"
            if self._query
            else "required field 'messages' (or 'conversations', 'prompt', 'question', 'instruction')"
        )
        raise UserError(f"{row.where}: {wanted} is missing; found {sorted(row.values)}")


def _reach(values: Any, path: str) -> Any:
    """What lies at a path such as `reward_model.ground_truth` or `conversations.-1.value`; None if nothing.

    A column may have dots in its own name, too.
    """
    if isinstance(values, Mapping) and path in values:
        return values[path]
    first, dot, rest = path.partition(".")
    if isinstance(values, Mapping):
        values = values.get(first)
    elif isinstance(values, list) and first.removeprefix("-").isdecimal():
        place = int(first)
        values = values[place] if -len(values) <= place < len(values) else None
    else:
        return None
    return _reach(values, rest) if dot else values


def _with_input(row: Row, instruction: Any) -> Any:
    """Alpaca's query: its instruction and, where there is one, the text that this is about."""
    given = row.values.get("input")
    return f"{instruction}\n\n{given}" if isinstance(given, str) and given.strip() else instruction
