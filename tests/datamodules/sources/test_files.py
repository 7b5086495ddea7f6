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


CHAT = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
SHARE_GPT = [{"from": "human", "value": "1+1"}, {"from": "gpt", "value": "2"}]
VERL = {"data_source": "x", "prompt": CHAT[:1], "reward_model": {"style": "rule", "ground_truth": "2"}}


# A row as its data set has it, settings, and what is asked and what is right.
@pytest.mark.parametrize(
    ("row", "settings", "question", "reference"),
    [
        # NuminaMath: what the user named wins over what is merely there
        (
            {"problem": "1+1", "solution": "2", "messages": CHAT},
            {"columns": {"prompt": "problem", "reference": "solution"}},
            "1+1",
            "2",
        ),
        ({"problem": "1+1", "prompt": "?"}, {"columns": {"question": "problem"}}, "1+1", ""),
        ({"messages": CHAT, "question": "1+1"}, {"columns": {"messages": None}}, "1+1", ""),
        ({"messages": CHAT}, {"cut_last_reply": True}, "1+1", ""),
        ({"conversations": SHARE_GPT}, {"cut_last_reply": True}, "1+1", ""),
        (
            {"conversations": SHARE_GPT},
            {"cut_last_reply": True, "columns": {"reference": "conversations.-1.value"}},
            "1+1",
            "2",
        ),
        ({"instruction": "Add.", "input": "1 and 1", "output": "2"}, {}, "Add.\n\n1 and 1", ""),
        (
            {"instruction": "1+1", "input": "", "output": "2"},
            {"columns": {"reference": "output"}},
            "1+1",
            "2",
        ),
        ({"prompt": "1+1", "completion": "2"}, {"columns": {"reference": "completion"}}, "1+1", "2"),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, {}, "1+1", ""),
        (VERL, {}, "1+1", "2"),
        (VERL, {"columns": {"reference": "reward_model.ground_truth"}}, "1+1", "2"),
        (VERL, {"columns": {"reference": None}}, "1+1", ""),
        ({"prompt": "1+1", "a.b": "2"}, {"columns": {"reference": "a.b"}}, "1+1", "2"),
        ({"prompt": "1+1", "reference": None}, {}, "1+1", ""),
        ({"prompt": "f", "reference": {"asserts": ["é"]}}, {}, "f", '{"asserts": ["é"]}'),
        ({"prompt": "1+1", "conversations": "?"}, {"columns": {"conversations": None}}, "1+1", ""),
        ({"task": "1+1"}, {"columns": {"instruction": "task"}}, "1+1", ""),
        ({"prompt": "1+1", "difficulty": "?", "tools": [1]}, {"columns": {"difficulty": None, "tools": None}},
         "1+1", ""),
    ],
)  # fmt: skip
def test_rows_are_read_as_their_data_sets_have_them(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any], question: str, reference: str
) -> None:
    (prompt,) = FilePrompts(jsonl(tmp_path, [row]), **settings).load()
    assert prompt["messages"] == [{"role": "user", "content": question}]
    assert prompt["reference"] == reference


def test_a_column_may_be_absent_in_some_rows_but_not_in_all(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [{"q": "1+1"}, {"q": "2+2", "level": 3}, {"level": 1}])
    columns = {"prompt": "q", "difficulty": "level"}
    assert [one["difficulty"] for one in FilePrompts(path, columns=columns, limit=2).load()] == [0, 3]
    with pytest.raises(UserError, match=r":3: column 'q', named for 'prompt', is missing; found \['level'\]"):
        FilePrompts(path, columns=columns).load()
    with pytest.raises(UserError, match=r"columns names .'prompt', 'question'.*name one"):
        FilePrompts(path, columns={"prompt": "q", "question": "q"}).load()


def test_of_no_rows_nothing_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^FilePrompts\.limit: 0; give at least 1"):
        FilePrompts(jsonl(tmp_path, ROWS), limit=0)


def test_levels_give_words_a_number(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path, [{"question": str(n), "difficulty": word} for n, word in enumerate(["Hard", "AIME"])]
    )
    with pytest.raises(UserError, match=r":2: field 'difficulty' must be .*, found 'AIME'"):
        FilePrompts(path).load()
    levels = {"hard": 5, "aime": 9}
    assert [one["difficulty"] for one in FilePrompts(path, levels=levels).load()] == [5, 9]


def test_a_prompt_knows_its_place(tmp_path: Path) -> None:
    source = FilePrompts(jsonl(tmp_path, ROWS))
    assert source.place("7") == source.name
    source.load()
    assert [source.place(name) for name in ("7", "rows-2")] == [f"{source.path}:1", f"{source.path}:3"]


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
        (
            {"reference": "1", "problem": "1+1"},
            r":1: required field 'messages' \(or .*\) is missing; found \['problem', 'reference'\]",
        ),
        ({"question": " ", "reference": "1"}, r"rows\.jsonl:1: field 'question' is empty"),
        ({"question": 1, "reference": "1"}, r"rows\.jsonl:1: field 'question' must be a non-empty list of"),
        (
            {"question": "1", "reference": ["a", "b"]},
            r":1: field 'reference' must be one text, number or",
        ),
        ({"question": "1", "difficulty": "?"}, r"'difficulty' must be .* \['easy', 'hard', 'medium'\].*null"),
        ({"question": "1", "difficulty": True}, r"field 'difficulty' must be a number"),
        ({"question": "1", "domain": {}}, r"field 'domain' must be text or a list of texts, found {}"),
        ({"question": "1", "verifier": {}}, r"field 'verifier' must be text, found {}"),
        (
            {"question": "1", "tools": [{"name": ""}]},
            r":1: tool 1 of 'tools': it must be a function with a name, .* by columns: .tools: null",
        ),
        (
            {"question": "1", "functions": "sin and cos"},
            r":1: field 'functions': it must be a list of tools, found .*; mend it, or leave .*: null",
        ),
        ({"question": "\ud800"}, r"rows\.jsonl:1: '.ud800' is half of a character"),
        # The same in JSON within a text.
        (
            {"messages": json.dumps([{"role": "user", "content": "\ud800"}])},
            r"rows\.jsonl:1: '.ud800' is half of a character",
        ),
        (
            {"question": "1", "tools": json.dumps([{"name": "a", "description": "\ud800"}])},
            r"rows\.jsonl:1: '.ud800' is half of a character",
        ),
        ({"messages": "hi", "reference": "1"}, r"field 'messages' must be"),
        (
            {"messages": [{"role": "system", "content": "a"}, CHAT[0]], "system": "b"},
            r":1: it has a column 'system' and another system turn; leave .* by columns: .system: null",
        ),
        ({"question": "1", "system": {}}, r":1: field 'system' must be text, found {}; .*system: null"),
        ({"question": "1", "reference": "1", "metadata": []}, r"field 'metadata' must be an object"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FilePrompts(jsonl(tmp_path, [row])).load()


def test_ids_must_differ(tmp_path: Path) -> None:
    row = {"id": "a", "question": "1", "reference": "1"}
    with pytest.raises(UserError, match=r":2: id 'a' appears twice, first at .*rows\.jsonl:1"):
        FilePrompts(jsonl(tmp_path, [row, row])).load()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.jsonl", "no such file"),
        ("nowhere.parquet", "no such file"),
        ("/nowhere/at/all", "not a .jsonl, .json, .csv, .tsv or .parquet file, nor a hub"),
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
