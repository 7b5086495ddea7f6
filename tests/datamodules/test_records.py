import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import Record, read_records, write_records
from katlit.errors import UserError
from katlit.text.protocol import Mode, Response

RECORD = Record(
    id="a", messages=[{"role": "user", "content": "1+1 <answer>"}], regime=Mode.THINK_ON, judge="hm",
    think="1+1 = 2\n", answer="2", votes={"on": 3, "off": 2}, critic_score=0.5, metadata={"x": [1, None]},
)  # fmt: skip
MINIMAL: dict[str, Any] = {
    "id": "a", "messages": [{"role": "user", "content": "hi"}], "regime": "off", "judge": "j", "answer": "b"
}  # fmt: skip

CALL = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'


def test_records_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    records = [RECORD, replace(RECORD, id="b", regime=Mode.THINK_OFF, think="", critic_score=None)]
    write_records(path, records)
    assert read_records(path) == records
    assert [file.name for file in path.parent.iterdir()] == ["records.jsonl"]


def test_thoughts_of_earlier_turns_are_cut(tmp_path: Path) -> None:
    turns = [
        RECORD.messages[0],
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n2"},
        *RECORD.messages,
    ]
    write_records(tmp_path / "records.jsonl", [replace(RECORD, messages=turns)])
    (record,) = read_records(tmp_path / "records.jsonl")
    assert [turn["content"] for turn in record.messages] == ["1+1 <answer>", "2", "1+1 <answer>"]


def test_tools_and_their_turns_survive_the_file_and_old_records_have_none(tmp_path: Path) -> None:
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [*RECORD.messages, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "2"}]
    old = {name: value for name, value in asdict(RECORD).items() if name != "tools"}
    rows = [
        old | {"tools": '[{"name": "add"}]', "messages": turns, "answer": CALL},
        old,
        old | {"tools": None},
    ]
    write_rows(tmp_path / "records.jsonl", rows)
    records = read_records(tmp_path / "records.jsonl")
    assert records[0].tools == [{"type": "function", "function": {"name": "add"}}]
    assert records[0].messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert records[1:] == [RECORD, RECORD]
    write_records(tmp_path / "records.jsonl", records)
    assert read_records(tmp_path / "records.jsonl") == records


def test_an_array_and_the_mark_of_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "records.json").write_text(f"\ufeff{json.dumps([MINIMAL, MINIMAL], indent=1)}\n")
    assert [record.answer for record in read_records(tmp_path / "records.json")] == ["b", "b"]


def test_response_is_what_the_protocol_renders() -> None:
    assert RECORD.response() == Response(judge="hm", mode=Mode.THINK_ON, think="1+1 = 2\n", answer="2")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"a": 1}])

    def broken() -> Any:
        yield {"a": 2}
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_rows(path, broken())
    assert path.read_text() == '{"a": 1}\n'


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"rows\.jsonl: cannot write"):
        write_rows(tmp_path / "file" / "rows.jsonl", [])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "the data set is empty"),
        (["", "  "], "the data set is empty"),
        ([MINIMAL, "{oops"], r":2: malformed JSON at column 2"),
        ([MINIMAL, [1]], r":2: expected a JSON object, found list"),
        ([MINIMAL, "1 2"], r":2: malformed JSON at column 2: extra data '2'"),
        (['[\n{"a": 1},\n\n3]'], r":4: expected a JSON object, found int"),
        (['[\n{"a": 1}\n{"a": 2}]'], r":2: malformed JSON: after this object the array has no , or \]"),
        (['[\n{"a": 1},\n {"b" 2}]'], r":3: malformed JSON at column 7: Expecting ':'"),
        (['[{"a": 1}', "{}"], r":1: malformed JSON: after this object the array has no"),
        (["[]"], "the data set is empty"),
        (["[] 3"], "after the array stands '3'"),
        (["[" * 100_000], r":1: malformed JSON"),
        ([MINIMAL, '{"id": "\\ud83d"}'], r":2: '\\ud83d' is half of a character .a lone surrogate"),
        ([{**MINIMAL, "tools": '[{"name": "\\ud83d"}]'}], r":1: '\\ud83d' is half of a character"),
        ([{**MINIMAL, "think_": "x"}], r":1: unknown field 'think_'"),
        (
            [{**MINIMAL, "regime": "maybe"}],
            r":1: field 'regime' must be one of \['on', 'off'\], found 'maybe'",
        ),
        ([{**MINIMAL, "regime": "on"}], r":1: required field 'think' is missing"),
        ([{**MINIMAL, "regime": "on", "think": "\n"}], r":1: field 'think' must be text that is not empty"),
        ([{**MINIMAL, "answer": " "}], r":1: field 'answer' must be text that is not empty, found ' '"),
        ([{**MINIMAL, "difficulty": "3"}], r":1: field 'difficulty' must be a whole number, found '3'"),
        ([{**MINIMAL, "difficulty": True}], r":1: field 'difficulty' must be a whole number"),
        ([{**MINIMAL, "messages": []}], r":1: field 'messages' must be a non-empty list"),
        (
            [{**MINIMAL, "messages": [{"role": "user"}]}],
            r":1: turn 1 of 'messages': its content must be",
        ),
        ([{**MINIMAL, "messages": "hi"}], r":1: field 'messages' must be a non-empty list"),
        ([{**MINIMAL, "votes": [1]}], r":1: field 'votes' must be an object"),
        (
            [{**MINIMAL, "tools": {"name": "add"}}],
            r":1: field 'tools' must be a list of tools, or one as JSON",
        ),
        ([{**MINIMAL, "tools": [{}]}], r":1: tool 1 of 'tools': it must be a function with a name"),
        (
            [{**MINIMAL, "tools": [{"name": "add"}], "answer": "<tool_call>\nadd\n</tool_call>"}],
            r":1: field 'answer' has a fault in its calls of tools: malformed_tool_call; write them",
        ),
        (
            [{**MINIMAL, "tools": [{"name": "add"}], "answer": CALL.replace("add", "sub")}],
            r":1: field 'answer' has a fault in its calls of tools: unknown_tool",
        ),
        *(
            (
                [{key: value for key, value in MINIMAL.items() if key != name}],
                f":1: required field '{name}' is missing",
            )
            for name in MINIMAL
        ),
    ],
)
def test_errors_name_the_line_and_the_field(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    with pytest.raises(UserError, match=message) as caught:
        read_records(path)
    assert "data.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        read_records(tmp_path / "nowhere.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_records(tmp_path / "binary.jsonl")
