import fcntl
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from katlit.tracking.outbox import Entry, Outbox, Refused


class Tracker:
    """Takes entries while it is up."""

    def __init__(self, *, up: bool = True) -> None:
        self.up = threading.Event()
        self.tried = threading.Event()
        self.got: list[int] = []
        if up:
            self.up.set()

    def __call__(self, entry: Entry) -> None:
        self.tried.set()
        if not self.up.is_set():
            raise ConnectionError("nobody answers")
        if entry["number"] < 0:
            raise Refused("no such run")
        self.got.append(entry["number"])


def kept(file: Path) -> list[int]:
    return [json.loads(line)["number"] for line in file.read_text().splitlines()]


def test_what_is_sent_leaves_nothing(tmp_path: Path) -> None:
    tracker, file = Tracker(), tmp_path / "a.unsent.jsonl"
    outbox = Outbox(file, tracker)
    for number in range(20):
        outbox.put({"number": number})
    assert outbox.close() is None
    assert tracker.got == [*range(20)]
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_away_gets_all_in_order_when_it_is_back(tmp_path: Path) -> None:
    tracker, file = Tracker(up=False), tmp_path / "a.unsent.jsonl"
    outbox = Outbox(file, tracker)
    for number in range(3):
        outbox.put({"number": number})
    assert kept(file) == [0, 1, 2]  # on disk already
    assert tracker.tried.wait(60)
    tracker.up.set()
    assert outbox.close() is None
    assert tracker.got == [0, 1, 2]


def test_what_could_not_be_sent_is_kept_told_and_sent_by_the_next_run(tmp_path: Path) -> None:
    tracker, file = Tracker(up=False), tmp_path / "a.unsent.jsonl"
    outbox = Outbox(file, tracker, patience=0.2)
    outbox.put({"number": 1})
    outbox.put({"number": 2})
    assert outbox.close() == "2 of 2 entries were not sent (nobody answers)"
    assert kept(file) == [1, 2]
    tracker.up.set()
    later = Outbox(tmp_path / "b.unsent.jsonl", tracker)
    later.put({"number": 3})
    assert later.close() is None
    assert tracker.got == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    release, file = threading.Event(), tmp_path / "a.unsent.jsonl"
    outbox = Outbox(file, lambda _: release.wait(60), patience=0.2)
    outbox.put({"number": 1})
    assert outbox.close() == "1 of 1 entries were not sent (no answer)"
    release.set()
    assert kept(file) == [1]


def test_what_is_refused_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    tracker, file = Tracker(), tmp_path / "a.unsent.jsonl"
    outbox = Outbox(file, tracker)
    for number in (1, -2, 3):
        outbox.put({"number": number})
    assert outbox.close() == "1 entries were refused (no such run)"
    assert tracker.got == [1, 3]
    assert kept(file) == [-2]


def test_a_file_of_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    away, tracker = Tracker(up=False), Tracker()
    first = Outbox(tmp_path / "a.unsent.jsonl", away, patience=0.2)
    first.put({"number": 1})
    second = Outbox(tmp_path / "b.unsent.jsonl", tracker)
    second.put({"number": 2})
    assert second.close() is None
    assert tracker.got == [2]
    assert first.close() is not None


def test_a_file_that_another_run_removes_as_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, taken = tmp_path / "a.unsent.jsonl", []
    locks = fcntl.flock

    def lock(opened: Any, how: int) -> None:
        if not taken:  # another run has found the file, empty, and removed it
            taken.append(True)
            file.unlink()
        locks(opened, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    tracker = Tracker()
    outbox = Outbox(file, tracker)
    outbox.put({"number": 1})
    assert outbox.close() is None
    assert tracker.got == [1]
