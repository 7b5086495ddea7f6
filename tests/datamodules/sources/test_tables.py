import json
from pathlib import Path

import pytest

from katlit.datamodules.sources.tables import read_table
from katlit.errors import UserError


def written(tmp_path: Path, name: str, text: str) -> str:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return str(tmp_path / name)


ROW = {"question": 'Say "1,\n2"', "n": "é"}
FILES = {
    "rows.jsonl": json.dumps(ROW),
    "marked.jsonl": f"\ufeff{json.dumps(ROW)}\r\n",
    "separator.jsonl": json.dumps(ROW | {"empty": None}, ensure_ascii=False) + "\n\n",
    "rows.json": json.dumps([ROW], indent=2),
    "lines.json": json.dumps(ROW),
    "array.jsonl": f" \n[{json.dumps(ROW)}]",
    "rows.csv": 'question,n,empty\r\n"Say ""1,\n2""",é,\r\n',
    "marked.csv": '\ufeffquestion,n\n"Say ""1,\n2""",é\n',
    "rows.tsv": 'question\tn\n"Say ""1,\n2"""\té\n',
}


@pytest.mark.parametrize("name", FILES)
def test_each_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    (row,) = read_table(written(tmp_path, name, FILES[name]), None, "train")
    assert row.values == ROW


def test_of_nulls_only_those_that_stand_for_no_column_are_left_out(tmp_path: Path) -> None:
    (row,) = read_table(written(tmp_path, "a.jsonl", '{"a": null, "b": {"c": null}}'), None, "")
    assert row.values == {"b": {"c": None}}


def test_rows_know_the_line_that_they_begin_in(tmp_path: Path) -> None:
    table = written(tmp_path, "rows.csv", 'a,b\n1,"2\n3"\n\n4,5\n')
    assert [row.where for row in read_table(table, None, "")] == [f"{table}:2", f"{table}:5"]
    array = written(tmp_path, "rows.json", '[\n {"a": 1},\n\n {"a":\n 2}, {"a": 3}]')
    assert [row.where for row in read_table(array, None, "")] == [f"{array}:{line}" for line in (2, 4, 5)]
    # A separator of lines to Unicode, not to JSON Lines.
    lines = written(tmp_path, "rows.jsonl", '{"a": "\u2028"}\n{"a": 2}')
    assert [row.where for row in read_table(lines, None, "")] == [f"{lines}:1", f"{lines}:2"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b\n", "the data set is empty"),
        ("a.csv", "a,b\n1,2,3\n", r"a\.csv:2: it has more cells than the first line names"),
        ("a.csv", "a,b,a\n1,2,3\n", r"a\.csv:1: two columns are named 'a'; rename one"),
        ("a.csv", 'a,b\n1,"2\n', r"a\.csv:2: malformed CSV"),
        ("a.csv", "a\n" + 140_000 * "x", r"a\.csv:2: malformed CSV: field larger than field limit"),
        ("a.txt", "hi", r"a\.txt: not a \.jsonl, \.json, \.csv, \.tsv or \.parquet file, nor a hub id"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(written(tmp_path, name, text), None, "train")


def test_a_file_of_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("a\né\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.csv: not UTF-8 text .*; save it as UTF-8"):
        read_table(str(tmp_path / "a.csv"), None, "train")
