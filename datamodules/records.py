"""The schema of labelled data: one record is one query with one response (recipe §2)."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from katlit.datamodules.conversations import read_conversation
from katlit.datamodules.jsonl import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    OBJECT,
    TEXT,
    Field,
    Row,
    check_field,
    read_rows,
    require_characters,
    write_rows,
)
from katlit.datamodules.offered_tools import Tool, read_tools
from katlit.datamodules.tool_turns import Turn
from katlit.errors import UserError
from katlit.text.protocol import Mode, Response
from katlit.text.tool_calls import split_answer, tool_names

_MODE = Field(lambda value: value in list(Mode), f"one of {[mode.value for mode in Mode]}")
_SCORE = Field(lambda value: value is None or NUMBER.accepts(value), "a number or null")

_WORDS = Field(lambda value: isinstance(value, str) and bool(value.strip()), "text that is not empty")
_TURNS = Field(lambda value: isinstance(value, list), "a non-empty list of {role, content} turns")
_TOOLS = Field(
    lambda value: value is None or isinstance(value, list | str), "a list of tools, or one as JSON"
)
_REQUIRED = {"id": TEXT, "messages": _TURNS, "regime": _MODE, "judge": TEXT, "answer": _WORDS}
_OPTIONAL = {
    "think": TEXT,
    "domain": TEXT,
    "difficulty": INTEGER,
    "verifiable": BOOLEAN,
    "reference": TEXT,
    "votes": OBJECT,
    "critic_score": _SCORE,
    "verified": BOOLEAN,
    "forced": BOOLEAN,
    "rewritten": BOOLEAN,
    "teacher": TEXT,
    "source": TEXT,
    "seed": INTEGER,
    "verifier": TEXT,
    "metadata": OBJECT,
    "tools": _TOOLS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One query, the regime chosen for it, and a response in that regime."""

    id: str
    messages: list[Turn]
    regime: Mode
    judge: str  # why the query does, or does not, need reasoning
    answer: str
    think: str = ""  # required in a think-on record, empty in a think-off record
    domain: str = ""
    difficulty: int = 0
    verifiable: bool = False
    reference: str = ""
    votes: dict[str, int] = field(default_factory=dict)  # ballots, or correct samples, by mode
    critic_score: float | None = None
    verified: bool = False
    forced: bool = False  # the mode came by prefill: judge and marker are no targets
    rewritten: bool = False  # not in its teacher's words, so stage 1 has no divergence from them
    teacher: str = ""
    source: str = ""
    seed: int = 0
    verifier: str = "match"
    metadata: dict[str, Any] = field(default_factory=dict)
    tools: list[Tool] = field(default_factory=list)  # that the response may call

    def response(self) -> Response:
        """Return the response as the protocol renders it."""
        return Response(judge=self.judge, mode=self.regime, think=self.think, answer=self.answer)


def read_records(path: Path) -> list[Record]:
    """Read records from a JSON Lines file; unknown fields are errors, so that a typo is not lost.

    Raises:
        UserError: naming file, line and field, for whatever is wrong.
    """
    return [_record(row) for row in read_rows(path)]


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON Lines, atomically."""
    write_rows(path, (asdict(record) for record in records))


def _record(row: Row) -> Record:
    unknown = sorted(row.values.keys() - _REQUIRED.keys() - _OPTIONAL.keys())
    if unknown:
        raise UserError(f"{row.where}: unknown field '{unknown[0]}'; known: {[*_REQUIRED, *_OPTIONAL]}")
    values = {name: check_field(row, name, kind) for name, kind in _REQUIRED.items()}
    values |= {name: check_field(row, name, kind) for name, kind in _OPTIONAL.items() if name in row.values}
    values["tools"] = read_tools(values.get("tools"), row.where)
    values["messages"] = read_conversation(values["messages"], row.where, "messages", tools=values["tools"])
    values["regime"] = Mode(values["regime"])
    if values["regime"] is Mode.THINK_ON:
        check_field(row, "think", _WORDS)
    elif values.get("think"):
        raise UserError(f"{row.where}: field 'think' must be empty where 'regime' is 'off'")
    fault = split_answer(values["answer"], tool_names(values["tools"] or None)).fault
    if values["tools"] and fault is not None:
        raise UserError(
            f"{row.where}: field 'answer' has a fault in its calls of tools: {fault.value}; write them at "
            'the end, each on lines of its own: <tool_call>, {"name": …, "arguments": {…}}, </tool_call>'
        )
    require_characters([values["messages"], values["tools"]], row.where)
    return Record(**values)
