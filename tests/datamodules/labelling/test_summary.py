"""What `katlit report` is told of labelling."""

import json
from pathlib import Path

from katlit.datamodules.labelling.rejections import Reason, Rejections
from katlit.datamodules.labelling.summary import keep_summary, write_summary
from katlit.datamodules.records import Record
from katlit.text.protocol import Mode


def test_the_counts_and_some_examples_reach_the_stages_folder(tmp_path: Path) -> None:
    rejections = Rejections("teacher")
    for number in range(9):
        rejections.add(Reason.WRONG, Mode.THINK_ON, f"p{number}", "score 0", "x" * 5000)
    rejections.add(Reason.TRUNCATED, Mode.THINK_OFF, "p9", "cut", "<script>")
    records = [
        Record(id=name, messages=[], regime=mode, judge="", answer="1")
        for name, mode in (("a", Mode.THINK_ON), ("a", Mode.THINK_OFF), ("b", Mode.THINK_OFF))
    ]
    path = tmp_path / "cache/distill-1.jsonl"
    keep_summary(path, tmp_path / "stage")  # labels of an earlier katlit
    assert not (tmp_path / "stage").exists()
    path.parent.mkdir()
    write_summary([rejections], records, 12, path)
    keep_summary(path, tmp_path / "stage")
    kept = json.loads((tmp_path / "stage/labels.json").read_text())
    assert (kept["prompts"], kept["labelled"], kept["records"]) == (12, 2, {"on": 1, "off": 2})
    assert kept["rejected"] == [
        {"model": "teacher", "asked": "on", "reason": "wrong", "count": 9},
        {"model": "teacher", "asked": "off", "reason": "truncated", "count": 1},
    ]
    assert [(row["prompt"], len(row["reply"])) for row in kept["examples"]] == [
        ("p0", 2000), ("p1", 2000), ("p9", 8)
    ]  # fmt: skip
    keep_summary(tmp_path / "cache/distill-2.jsonl", tmp_path / "stage")
    assert not (tmp_path / "stage/labels.json").exists()
