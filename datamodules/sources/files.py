"""Queries from JSON Lines, parquet, or a data set of a model hub."""

from pathlib import Path
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules.jsonl import INTEGER, MESSAGES, OBJECT, TEXT, Row, check_field, read_rows
from katlit.datamodules.sources.base import PromptSource
from katlit.errors import UserError

_FIELDS = (
    "id",
    "messages",
    "prompt",
    "question",
    "reference",
    "verifier",
    "domain",
    "difficulty",
    "metadata",
)


class FilePrompts(PromptSource):
    """Queries from a file or a hub: `messages`, or `prompt` or `question`, and `reference`.

    `reference` may be empty text where a query cannot be verified. Optional: `id`, `verifier`, `domain`,
    `difficulty`, `metadata`.

    Args:
        path: A `.jsonl` or `.parquet` file, or the id of a hub data set such as `openai/gsm8k`.
        split: Split of a hub data set; files have none.
        config: Configuration of a hub data set, e.g. `main`.
        columns: Names in the data by our field names, where they differ, e.g. `{reference: answer}`.
        reference_after: A text; each reference is only what follows the last one of it, e.g. `####` in
            GSM8K, whose references are whole solutions; all of it if empty.
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
        columns: dict[str, str] | None = None,
        reference_after: str = "",  # not None: beside it jsonargparse would read "####" as a comment
        verifier: str = "match",
        domain: str = "",
        limit: int | None = None,
    ) -> None:
        self.path = path
        self.split = split
        self.config = config
        self.columns = columns
        self.reference_after = reference_after
        self.verifier = verifier
        self.domain = domain
        self.limit = limit

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def load(self) -> list[Prompt]:
        """Read and check all queries."""
        unknown = sorted((self.columns or {}).keys() - set(_FIELDS))
        if unknown:
            raise UserError(f"FilePrompts: columns names no field of ours: {unknown}; known: {list(_FIELDS)}")
        prompts = [self._prompt(index, self._rename(row)) for index, row in enumerate(self._rows())]
        first_seen: dict[str, int] = {}
        for index, prompt in enumerate(prompts):
            if first_seen.setdefault(prompt["id"], index) != index:
                raise UserError(f"{self.path}: id '{prompt['id']}' appears twice; ids must differ")
        return prompts

    def _rows(self) -> list[Row]:
        path = Path(self.path)
        if path.suffix in {".jsonl", ".json"}:
            # Read by ourselves: `datasets` gives dictionaries keys of other rows, and names no lines.
            return read_rows(path)[: self.limit]
        if path.suffix != ".parquet" and (path.exists() or self.path.count("/") > 1 or path.is_absolute()):
            raise UserError(f"{self.path}: not a .jsonl or .parquet file, nor a hub id such as owner/name")
        if path.suffix == ".parquet" and not path.is_file():
            raise UserError(f"{self.path}: no such file; give a .jsonl or .parquet file or a hub id")
        rows = _table_rows(self.path, self.config, self.split)[: self.limit]
        if not rows:
            raise UserError(f"{self.path}: the data set is empty; it needs at least one row")
        return rows

    def _rename(self, row: Row) -> Row:
        columns = self.columns or {}
        for ours, theirs in columns.items():
            if theirs not in row.values:
                raise UserError(
                    f"{row.where}: column '{theirs}', named for '{ours}', is missing; "
                    f"found {sorted(row.values)}"
                )
        # A renamed column shadows a field that happens to bear our name.
        named = {name: row.values[name] for name in _FIELDS if name in row.values}
        return Row(row.where, named | {ours: row.values[theirs] for ours, theirs in columns.items()})

    def _prompt(self, index: int, row: Row) -> Prompt:
        defaults = {
            "id": f"{Path(self.path).stem}-{index}",
            "verifier": self.verifier,
            "domain": self.domain,
            "difficulty": 0,
            "metadata": {},
        }
        full = Row(row.where, defaults | row.values)
        return Prompt(
            id=str(full.values["id"]),
            messages=_messages(full),
            reference=self._reference(full),
            verifier=check_field(full, "verifier", TEXT),
            domain=check_field(full, "domain", TEXT),
            difficulty=check_field(full, "difficulty", INTEGER),
            metadata=check_field(full, "metadata", OBJECT),
        )

    def _reference(self, row: Row) -> str:
        text: str = check_field(row, "reference", TEXT)
        if not text or not self.reference_after:
            return text
        _, found, answer = text.rpartition(self.reference_after)
        if not found:
            raise UserError(
                f"{row.where}: 'reference' lacks {self.reference_after!r}, which reference_after names: "
                f"it ends in {text[-80:]!r}"
            )
        return answer.strip()


def _messages(row: Row) -> list[dict[str, str]]:
    if "messages" in row.values:
        return [
            {"role": turn["role"], "content": turn["content"]}
            for turn in check_field(row, "messages", MESSAGES)
        ]
    for name in ("prompt", "question"):
        if name in row.values:
            return [{"role": "user", "content": check_field(row, name, TEXT)}]
    raise UserError(
        f"{row.where}: required field 'messages' (or 'prompt', or 'question') is missing; "
        f"found {sorted(row.values)}"
    )


def _table_rows(path: str, config: str | None, split: str) -> list[Row]:
    import datasets

    try:
        if path.endswith(".parquet"):
            table = datasets.Dataset.from_parquet(path, keep_in_memory=True)
        else:
            table = datasets.load_dataset(path, config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read ({reason}); check the path, the id, split and config"
        ) from error
    return [Row(f"{path}, row {index}", _without_none(row)) for index, row in enumerate(table)]


def _without_none(row: dict[str, Any]) -> dict[str, Any]:
    """Undo Arrow's filling: absent columns and absent keys of a struct come back as None."""
    return {
        name: _without_none(value) if isinstance(value, dict) else value
        for name, value in row.items()
        if value is not None
    }
