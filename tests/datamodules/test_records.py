import json
from dataclasses import replace
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


def test_records_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    records = [RECORD, replace(RECORD, id="b", regime=Mode.THINK_OFF, think="", critic_score=None)]
    write_records(path, records)
    assert read_records(path) == records
    assert [file.name for file in path.parent.iterdir()] == ["records.jsonl"]


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
        (["", [1]], r":2: expected a JSON object, found list"),
        ([{**MINIMAL, "think_": "x"}], r":1: unknown field 'think_'"),
        (
            [{**MINIMAL, "regime": "maybe"}],
            r":1: field 'regime' must be one of \['on', 'off'\], found 'maybe'",
        ),
        ([{**MINIMAL, "regime": "on"}], r":1: required field 'think' is missing"),
        ([{**MINIMAL, "difficulty": "3"}], r":1: field 'difficulty' must be a whole number, found '3'"),
        ([{**MINIMAL, "difficulty": True}], r":1: field 'difficulty' must be a whole number"),
        ([{**MINIMAL, "messages": []}], r":1: field 'messages' must be a non-empty list"),
        ([{**MINIMAL, "messages": [{"role": "user"}]}], r":1: field 'messages' must be"),
        ([{**MINIMAL, "votes": [1]}], r":1: field 'votes' must be an object"),
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
