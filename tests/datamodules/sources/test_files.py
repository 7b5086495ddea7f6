import json
from pathlib import Path
from typing import Any

import pytest

from katlit.datamodules.sources.files import FilePrompts
from katlit.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"id": 7, "question": "1+1", "reference": "2", "metadata": {"a": 1}, "difficulty": 2},
    {"messages": [{"role": "user", "content": "2+2", "extra": "x"}], "reference": "", "metadata": {"b": 2}},
    {"prompt": "3+3", "reference": "6", "verifier": "math", "domain": "sums"},
]


def jsonl(tmp_path: Path, rows: list[Any]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_jsonl(tmp_path: Path) -> None:
    prompts = FilePrompts(jsonl(tmp_path, ROWS), domain="all").load()
    assert [prompt["id"] for prompt in prompts] == ["7", "rows-1", "rows-2"]
    assert [prompt["messages"][0] for prompt in prompts] == [
        {"role": "user", "content": text} for text in ("1+1", "2+2", "3+3")
    ]
    assert [prompt["reference"] for prompt in prompts] == ["2", "", "6"]
    assert [prompt["verifier"] for prompt in prompts] == ["match", "match", "math"]
    assert [prompt["domain"] for prompt in prompts] == ["all", "all", "sums"]
    assert [prompt["metadata"] for prompt in prompts] == [{"a": 1}, {"b": 2}, {}]
    assert [prompt["difficulty"] for prompt in prompts] == [2, 0, 0]
    assert FilePrompts(jsonl(tmp_path, ROWS), limit=2).load()[-1]["id"] == "rows-1"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parquet_gives_the_same_as_jsonl(tmp_path: Path) -> None:
    import datasets

    columns = {
        name: [row.get(name) for row in ROWS] for name in ("question", "messages", "prompt", "reference")
    }
    columns["metadata"] = [row.get("metadata") for row in ROWS]
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_dict(columns).to_parquet(str(path))
    prompts = FilePrompts(str(path)).load()
    assert [prompt["messages"][0]["content"] for prompt in prompts] == ["1+1", "2+2", "3+3"]
    assert [prompt["metadata"] for prompt in prompts] == [{"a": 1}, {"b": 2}, {}]


def test_columns_are_renamed_and_shadow(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"problem": "1+1", "question": "unrelated", "answer": "2"}])
    columns = {"question": "problem", "reference": "answer"}
    (prompt,) = FilePrompts(path, columns=columns).load()
    assert (prompt["messages"][0]["content"], prompt["reference"]) == ("1+1", "2")
    with pytest.raises(UserError, match=r"rows\.jsonl:1: column 'solution', named for 'ref"):
        FilePrompts(path, columns={"reference": "solution"}).load()
    with pytest.raises(UserError, match="no field of ours: \\['refrence'\\]"):
        FilePrompts(path, columns={"refrence": "answer"}).load()


def test_of_a_solution_only_what_follows_the_marker_is_the_reference(tmp_path: Path) -> None:
    solutions = ["48 / 2 = <<48/2=24>>24 #### and\n#### 1,072", ""]
    path = jsonl(tmp_path, [{"question": "?", "reference": text} for text in solutions])
    prompts = FilePrompts(path, reference_after="####").load()
    assert [prompt["reference"] for prompt in prompts] == ["1,072", ""]
    with pytest.raises(UserError, match=r"rows\.jsonl:1: 'reference' lacks '==>', .* it ends in '48 / 2"):
        FilePrompts(path, reference_after="==>").load()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "1"}, r"rows\.jsonl:1: required field 'reference' is missing"),
        (
            {"reference": "1"},
            r"rows\.jsonl:1: required field 'messages' \(or 'prompt', or 'question'\)",
        ),
        ({"question": "1", "reference": 1}, r"field 'reference' must be text, found 1"),
        ({"messages": "hi", "reference": "1"}, r"field 'messages' must be"),
        ({"question": "1", "reference": "1", "metadata": []}, r"field 'metadata' must be an object"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FilePrompts(jsonl(tmp_path, [row])).load()


def test_ids_must_differ(tmp_path: Path) -> None:
    row = {"id": "a", "question": "1", "reference": "1"}
    with pytest.raises(UserError, match="id 'a' appears twice"):
        FilePrompts(jsonl(tmp_path, [row, row])).load()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.jsonl", "no such file"),
        ("nowhere.parquet", "no such file"),
        ("/nowhere/at/all", "not a .jsonl or .parquet file, nor a hub id"),
    ],
)
def test_missing_files(path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FilePrompts(path).load()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_unreachable_hub_id_and_a_broken_parquet_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody/nothing: cannot be read"):
        FilePrompts("nobody/nothing").load()
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"broken\.parquet: cannot be read"):
        FilePrompts(str(path)).load()
