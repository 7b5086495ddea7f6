"""Tools, calls of them and system turns as the columns of files have them."""

import json
from pathlib import Path
from typing import Any

import pytest

from katlit.datamodules.sources.files import FilePrompts
from katlit.errors import UserError

CHAT = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
SHARE_GPT = [{"from": "human", "value": "1+1"}, {"from": "gpt", "value": "2"}]


def jsonl(tmp_path: Path, rows: list[Any]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_table_gives_no_call_the_arguments_of_another(tmp_path: Path) -> None:
    import datasets

    asked = [{"city": "Oslo"}, {"zone": "CET"}]
    calls = [{"name": "look", "arguments": arguments} for arguments in asked]
    rows = [
        {"messages": [CHAT[0], {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "?"}],
         "wanted": [call], "tools": [{"name": "look"}]}
        for call in calls
    ]  # fmt: skip
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    prompts = FilePrompts(str(tmp_path / "rows.parquet"), columns={"reference": "wanted"}).load()
    assert [json.loads(prompt["reference"]) for prompt in prompts] == [[call] for call in calls]
    made = [prompt["messages"][1]["tool_calls"][0]["function"] for prompt in prompts]
    assert made == calls


CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add"}}


@pytest.mark.parametrize(
    "row",
    [
        {"tools": [TOOL]},
        {"tools": json.dumps([TOOL])},
        {"tools": "", "functions": None, "offered": [TOOL["function"]]},
        {"functions": [TOOL["function"]]},
    ],
)
def test_tools_go_with_the_prompt_and_calls_are_references(tmp_path: Path, row: dict[str, Any]) -> None:
    reply = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    columns: dict[str, str | None] = {"reference": "messages.-1.tool_calls"}
    columns |= {"tools": "offered"} if "offered" in row else {}
    path = jsonl(tmp_path, [{"messages": [CHAT[0], reply]} | row])
    (prompt,) = FilePrompts(path, columns=columns, cut_last_reply=True).load()
    assert prompt["tools"] == [TOOL]
    assert prompt["messages"] == CHAT[:1]
    assert json.loads(prompt["reference"]) == [CALL]
    (plain,) = FilePrompts(path, columns=columns | {"tools": None}, cut_last_reply=True).load()
    assert "tools" not in plain


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "settings", "turns"),
    [
        ({"prompt": "1+1", "system": "Be brief."}, {}, [SYSTEM, CHAT[0]]),
        ({"conversations": SHARE_GPT, "system": "Be brief."}, {"cut_last_reply": True}, [SYSTEM, CHAT[0]]),
        ({"messages": [SYSTEM, CHAT[0]], "system": "Be brief."}, {}, [SYSTEM, CHAT[0]]),
        ({"prompt": "1+1", "system": " "}, {}, CHAT[:1]),
        ({"prompt": "1+1", "system": "?"}, {"columns": {"system": None}}, CHAT[:1]),
        ({"prompt": "1+1", "role": "Be brief."}, {"columns": {"system": "role"}}, [SYSTEM, CHAT[0]]),
        ({"prompt": "1+1", "tools": [TOOL], "system": "Call: <tools>[{}]</tools>"}, {}, CHAT[:1]),
        ({"prompt": "1+1", "tools": [TOOL], "system": "Be brief."}, {}, [SYSTEM, CHAT[0]]),
    ],
)  # fmt: skip
def test_the_system_may_have_a_column(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any], turns: list[Any]
) -> None:
    (prompt,) = FilePrompts(jsonl(tmp_path, [row]), **settings).load()
    assert prompt["messages"] == turns


def test_no_call_at_all_is_a_reference(tmp_path: Path) -> None:
    reply = {"role": "assistant", "content": "It is 2.", "tool_calls": []}
    path = jsonl(tmp_path, [{"messages": [CHAT[0], reply], "tools": [TOOL]}])
    columns: dict[str, str | None] = {"reference": "messages.-1.tool_calls"}
    (prompt,) = FilePrompts(path, columns=columns, cut_last_reply=True, verifier="tool_calls").load()
    assert prompt["reference"] == "[]"
    with pytest.raises(UserError, match=r":1: field 'reference' must be one text, number or object, found "):
        FilePrompts(path, columns=columns, cut_last_reply=True, verifier="math").load()
