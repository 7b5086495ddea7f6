"""A source without its copies, and the report on them."""

import json
import logging
from pathlib import Path

import pytest

from katlit.datamodules import CleanedPrompts, FilePrompts
from katlit.errors import UserError

TEXTS = ["What is 1 + 1?", "what is 1 + 1", "What is 2 + 2?", "What is 3 + 3?"]


def written(path: Path, texts: list[str]) -> FilePrompts:
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
    return FilePrompts(str(path))


def test_what_is_left_out_is_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = written(tmp_path / "train.jsonl", TEXTS)
    evaluation = written(tmp_path / "test.jsonl", ["What is 3 + 3"])
    report = tmp_path / "removed.jsonl"
    cleaned = CleanedPrompts(source, [evaluation], report=str(report))
    with caplog.at_level(logging.INFO, logger="katlit"):
        left = cleaned.load()
    assert [prompt["id"] for prompt in left] == ["train-0", "train-2"]
    assert "4 queries, 2 left out (1 duplicate, 0 near duplicate, 1 in an evaluation)" in caplog.text
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["train-1", "train-3"]
    assert rows[0]["of"] == f"{tmp_path}/train.jsonl:1"
    assert rows[0]["where"] == f"{tmp_path}/train.jsonl:2"
    assert (rows[1]["reason"], rows[1]["of"]) == ("in an evaluation", f"{tmp_path}/test.jsonl:1")
    assert cleaned.place("train-2") == f"{tmp_path}/train.jsonl:3"


def test_near_duplicates_can_be_kept(tmp_path: Path) -> None:
    long = "Anna has some red apples, some green pears and many yellow plums in her old basket at home"
    source = written(tmp_path / "train.jsonl", [long, f"{long} today", long.upper()])
    assert len(CleanedPrompts(source).load()) == 1
    assert len(CleanedPrompts(source, near=1.0).load()) == 2


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "train.jsonl", TEXTS)
    with pytest.raises(UserError, match=r"all 4 queries are copies .* CleanedPrompts\.leak"):
        CleanedPrompts(source, [source]).load()


@pytest.mark.parametrize("setting", [{"near": 0.0}, {"near": 1.1}, {"leak": 0.0}])
def test_shares_are_shares(tmp_path: Path, setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"CleanedPrompts.{next(iter(setting))}"):
        CleanedPrompts(written(tmp_path / "train.jsonl", TEXTS), **setting)  # type: ignore[arg-type]
