"""`katlit trace`: all that was said is shown, and none of it can move the cursor."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from katlit.cli import main
from katlit.commands.trace import written

STEP = {
    "role": "thinker", "model": "the-model", "round": 1, "seed": 7, "think": "2+2\n\x1b[2J", "text": "4",
    "prompt_tokens": 10, "tokens": 5, "fault": "score", "note": "3: No\x07 reasons.",
}  # fmt: skip
TRACE: dict[str, Any] = {
    "id": "2+2", "source": "sums", "mode": "on", "kept": True, "dropped": "", "lost": "", "score": 4,
    "verified": True, "judge": "It is a\nsum.",
    "steps": [STEP, STEP | {"fault": None, "note": "", "think": ""}],
    "tags": {"needs_reasoning": True, "domain": "math", "difficulty": 2, "checkable": True, "how": "text",
             "spread": 0.2, "ties": [], "lost": []},
}  # fmt: skip
SHOWN = r"""2+2 (sums): think-on, kept, score 4, verified
tags: math, difficulty 2, needs reasoning, checked by text, spread 0.20

thinker 2, score (the-model, seed 7, 10 prompt and 5 reply tokens)
  3: No\x07 reasons.
  : 2+2
  : \x1b[2J
  | 4

thinker 2 (the-model, seed 7, 10 prompt and 5 reply tokens)
  | 4
judge: It is a\nsum.
"""


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "outputs/cache/traces-distill-1.jsonl"
    path.parent.mkdir(parents=True)
    rows = [TRACE | {"id": "1+1"}, TRACE, TRACE | {"id": "3+2+2", "judge": '"2+2"'}, TRACE | {"id": "да"}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_trace_is_shown_whole_and_harmless(traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "2+2"]) == 0
    assert capsys.readouterr().out == SHOWN
    assert main(["trace", "2+2", "--traces", str(traces)]) == 0
    assert capsys.readouterr().out == SHOWN


def test_the_newest_traces_of_all_recipes_are_looked_at(
    traces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = traces.parents[1] / "demo/cache/traces-distill-2.jsonl"
    newer.parent.mkdir(parents=True)
    newer.write_text(json.dumps(TRACE | {"id": "5+5"}) + "\n")
    os.utime(traces, (1, 1))
    assert main(["trace", "5+5"]) == 0
    assert "5+5" in capsys.readouterr().out
    os.utime(newer, (0, 0))
    assert main(["trace", "2+2"]) == 0


def test_what_was_dropped_says_why() -> None:
    lost = {
        "kept": False,
        "dropped": "thinker no reply",
        "lost": "status 400: \x1b[1m",
        "judge": "",
        "score": None,
    }
    assert written(TRACE | lost | {"verified": False, "score": None}).startswith(
        "2+2 (sums): think-on, dropped: thinker no reply status 400: \\x1b[1m\ntags"
    )


def test_no_field_moves_the_cursor_and_lost_votes_are_told() -> None:
    step = {name: value if isinstance(value, int) else "\x1b[2J\n" for name, value in STEP.items()}
    tags = TRACE["tags"] | {"how": "\x1b", "difficulty": "\x1b", "lost": ["status 400"] * 2}
    shown = written(TRACE | {"mode": "\x1b", "source": "\x1b", "steps": [step], "tags": tags})
    assert "\x1b" not in shown
    assert shown.splitlines()[3].startswith(r"\x1b[2J\n 2, \x1b[2J\n (")
    assert shown.splitlines()[1].endswith("spread 0.20, 2 votes lost (status 400)")


@pytest.mark.usefixtures("traces")
def test_a_terminal_of_few_characters_gets_the_others_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    assert main(["trace", "да"]) == 0
    assert raw.getvalue().startswith(rb"\u0434\u0430 (sums)")


@pytest.mark.usefixtures("traces")
def test_a_reader_that_leaves_ends_it_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    assert main(["trace", "2+2"]) == 141
    sys.stdout.close()  # what Python does at its end


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        (None, ["2+2"], "outputs: no cache/traces-….jsonl; label with"),
        (None, ["2+2", "--traces", "none.jsonl"], "none.jsonl: no such file; give a file traces-"),
        ("", ["2+2"], "none of its 0 traces is of '2+2'\n"),
        (json.dumps(TRACE), ["5"], "none of its 1 traces is of '5'; the first id is '2+2'"),
        ('{"id": "2+2"', ["2+2"], "distill-1.jsonl:1: no trace; give"),
        ('["2+2"]', ["2+2"], "distill-1.jsonl:1: no trace; give"),
        (json.dumps(TRACE | {"tags": TRACE["tags"] | {"spread": "a"}}), ["2+2"], "not what labelling wrote"),
        (json.dumps(TRACE | {"steps": 5}), ["2+2"], "the trace of '2+2' is not what labelling wrote"),
    ],
)
def test_mistakes_are_named(
    text: str | None, words: list[str], told: str, traces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traces.unlink() if text is None else traces.write_text(text)
    assert main(["trace", *words]) == 2
    assert told in capsys.readouterr().err
