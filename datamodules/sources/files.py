"""Queries from a file or a data set of a model hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from katlit.batch import Prompt
from katlit.datamodules.conversations import read_conversation, system_turns
from katlit.datamodules.jsonl import Row, require_characters
from katlit.datamodules.offered_tools import Tool, read_tools
from katlit.datamodules.sources.base import PromptSource
from katlit.datamodules.sources.columns import Columns, Query
from katlit.datamodules.sources.tables import read_table
from katlit.datamodules.sources.values import (
    LEVELS,
    as_calls,
    as_difficulty,
    as_domain,
    as_list,
    as_object,
    as_reference,
    as_text,
)
from katlit.datamodules.tool_turns import Turn
from katlit.errors import UserError, require

ValueT = TypeVar("ValueT")


class FilePrompts(PromptSource):
    """Queries from a file or a hub, as docs/data.md says: a query, and a `reference` to verify answers by.

    The query is a text or turns under `messages`, `conversations` (ShareGPT), `prompt`, `question` or
    `instruction` (Alpaca, with its `input`). Optional are `system`, `id`, `reference` (or verl's
    `reward_model.ground_truth`), `verifier`, `domain`, `difficulty`, `metadata` and `tools`.

    Args:
        path: A file, `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet`, or the id of a hub data set such as
            `openai/gsm8k`.
        split: Split of a hub data set; files have none.
        config: Configuration of a hub data set, e.g. `main`.
        columns: Names in the data by our field names, where they differ, e.g. `{reference: answer}`. A dotted
            path reaches inside, `{reference: answers.0}`; null leaves out a column that bears our name.
        reference_after: A text; each reference is only what follows the last one of it, e.g. `####` in
            GSM8K, whose references are whole solutions; all of it if empty.
        cut_last_reply: Cut the assistant's turn off conversations that end with one, as data for supervised
            training do; else such rows are refused.
        levels: Numbers of difficulties that are words; easy, medium and hard are 1, 2 and 3 if not given.
        verifier: Scorer of the queries that name none, see `katlit.rewards.AccuracyReward`. `match` wants the
            reference's text and nothing else, `math` finds the answer in a sentence or a box.
        domain: Task family of the queries that name none.
        limit: Use only the first so many queries; all if not given.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        config: str | None = None,
        columns: dict[str, str | None] | None = None,
        reference_after: str = "",  # not None: beside it jsonargparse would read "####" as a comment
        cut_last_reply: bool = False,
        levels: dict[str, int] | None = None,
        verifier: str = "match",
        domain: str = "",
        limit: int | None = None,
    ) -> None:
        require(limit is None or limit >= 1, "FilePrompts.limit", limit, "at least 1, or null for all")
        self.path = path
        self.split = split
        self.config = config
        self.columns = columns
        self.reference_after = reference_after
        self.cut_last_reply = cut_last_reply
        self.levels = levels
        self.verifier = verifier
        self.domain = domain
        self.limit = limit
        self._places: dict[str, str] = {}  # of what was loaded, by id

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def place(self, prompt_id: str) -> str:
        """File and line of a prompt that was loaded."""
        return self._places.get(prompt_id, self.path)

    def load(self) -> list[Prompt]:
        """Read and check all queries."""
        columns = Columns(self.columns or {})
        levels = LEVELS if self.levels is None else {w.casefold(): n for w, n in self.levels.items()}
        rows = read_table(self.path, self.config, self.split)[: self.limit]
        columns.check(rows)
        prompts: list[Prompt] = []
        self._places = {}
        for index, row in enumerate(rows):
            prompt = self._prompt(f"{Path(self.path).stem}-{index}", _Fields(row, columns), levels)
            if prompt["id"] in self._places:
                raise UserError(
                    f"{row.where}: id '{prompt['id']}' appears twice, first at "
                    f"{self._places[prompt['id']]}; ids must differ"
                )
            require_characters(prompt, row.where)
            self._places[prompt["id"]] = row.where
            prompts.append(prompt)
        return prompts

    def _prompt(self, default_id: str, fields: "_Fields", levels: dict[str, int]) -> Prompt:
        tools = read_tools(fields.value("tools"), fields.where, fields.column("tools"))
        verifier = fields.optional("verifier", as_text, "text", self.verifier)
        words = f"a number, or one of the words {sorted(levels)} (more by levels: {{word: number}})"
        prompt = Prompt(
            id=fields.optional("id", as_text, "text or a number", default_id),
            messages=_with_system(fields, self._messages(fields, tools), tools),
            reference=self._reference(fields, as_calls if verifier == "tool_calls" else as_reference),
            verifier=verifier,
            domain=fields.optional("domain", as_domain, "text or a list of texts", self.domain),
            difficulty=fields.optional("difficulty", lambda value: as_difficulty(value, levels), words, 0),
            metadata=fields.optional("metadata", as_object, "an object", {}),
        )
        return prompt | {"tools": tools} if tools else prompt

    def _messages(self, fields: "_Fields", tools: list[Tool]) -> list[Turn]:
        column, value, turns = fields.query()
        if isinstance(value, str) and not turns:
            if not value.strip():
                raise UserError(f"{fields.where}: field '{column}' is empty; give the question")
            return [{"role": "user", "content": value}]
        return read_conversation(
            as_list(value) or value, fields.where, column, tools=tools, cut_last_reply=self.cut_last_reply
        )

    def _reference(self, fields: "_Fields", read: Callable[[Any], str | None]) -> str:
        text: str = fields.optional("reference", read, "one text, number or object", "")
        if not text or not self.reference_after:
            return text
        _, found, answer = text.rpartition(self.reference_after)
        if not found:
            raise UserError(
                f"{fields.where}: 'reference' lacks {self.reference_after!r}, which reference_after names: "
                f"it ends in {text[-80:]!r}"
            )
        return answer.strip()


def _with_system(fields: "_Fields", turns: list[Turn], tools: list[Tool]) -> list[Turn]:
    """The turns after the system's, where that has a column of its own, as LLaMA-Factory's data have it."""
    text: str = fields.optional("system", as_text, "text", "")
    first = system_turns(text, tools) if text.strip() else []
    if first and turns[0]["role"] == "system" and turns[:1] != first:
        raise UserError(
            f"{fields.where}: it has a column '{fields.column('system')}' and another system turn; leave the "
            "column out by columns: {system: null}"
        )
    return turns if turns[:1] == first else first + turns


class _Fields:
    """The fields of one row."""

    def __init__(self, row: Row, columns: Columns) -> None:
        self._row = row
        self._columns = columns

    @property
    def where(self) -> str:
        return self._row.where

    def query(self) -> Query:
        return self._columns.query(self._row)

    def value(self, field: str) -> Any:
        return self._columns.value(self._row, field)

    def column(self, field: str) -> str:
        return self._columns.column(self._row, field) or field

    def optional(
        self, field: str, read: Callable[[Any], ValueT | None], expected: str, default: ValueT
    ) -> ValueT:
        """A field as `read` gives it; the default where the row has none.

        Raises:
            UserError: where it cannot be read.
        """
        value = self.value(field)
        if value is None:
            return default
        found = read(value)
        if found is None:
            raise UserError(
                f"{self.where}: field '{field}' must be {expected}, found {value!r:.80}; mend it, name "
                f"another column, or leave it out by columns: {{{field}: null}}"
            )
        return found
