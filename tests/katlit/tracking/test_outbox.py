import fcntl
import json
import threading
from io import FileIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from katlit.tracking import outbox as outbox_module
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


def left_over(folder: Path, *lines: str) -> Path:
    """The file of a run that is over."""
    file = folder / "0.unsent.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_what_was_cut_off_or_is_refused_is_dropped_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left_over(tmp_path, '{"number": 1}', '{"num', '{"number": -2}', "[]", '{"number": 3}', '{"number"')
    for number in (4, 5):
        tracker = Tracker()
        outbox = Outbox(tmp_path / "a.unsent.jsonl", tracker)
        outbox.put({"number": number})
        assert outbox.close() is None
        assert tracker.got == ([1, 3, 4] if number == 4 else [5])
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "4 entries" in told
    assert "were refused and are dropped (a line is cut off; no such run)" in told
    assert list(tmp_path.iterdir()) == []


def test_what_was_sent_of_a_file_is_not_sent_again(tmp_path: Path) -> None:
    file = left_over(tmp_path, '{"number": 1}', '{"number": 2}', '{"number": 3}')
    got = []

    def send(entry: Entry) -> None:
        if entry["number"] == 2 and not back:
            raise ConnectionError("gone")
        got.append(entry["number"])

    back = False
    outbox = Outbox(tmp_path / "a.unsent.jsonl", send)
    assert outbox.close() is None
    assert kept(file) == [2, 3]
    back = True
    assert Outbox(tmp_path / "b.unsent.jsonl", send).close() is None
    assert got == [1, 2, 3]


def test_what_is_left_is_sent_by_the_run_that_sees_the_tracker_come_back(tmp_path: Path) -> None:
    left_over(tmp_path, '{"number": 1}')
    tracker = Tracker(up=False)
    outbox = Outbox(tmp_path / "a.unsent.jsonl", tracker)
    outbox.put({"number": 2})
    assert tracker.tried.wait(60)
    tracker.up.set()
    assert outbox.close() is None
    assert sorted(tracker.got) == [1, 2]
    assert list(tmp_path.iterdir()) == []


def test_entries_for_another_tracker_are_left_alone(tmp_path: Path) -> None:
    file = left_over(tmp_path, '{"number": -1}')
    assert Outbox(tmp_path / "mine-1.unsent.jsonl", Tracker(), left_over="mine-").close() is None
    assert kept(file) == [-1]


@pytest.mark.parametrize("comes_back", [True, False])
def test_while_the_disk_is_full_entries_wait_in_memory(
    comes_back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full, append = [False], outbox_module._append

    def fill(file: FileIO, line: bytes) -> None:
        """The disk takes the half of a line."""
        append(file, line) if not full[0] else append(_Half(file.fileno(), "a", closefd=False), line)

    class _Half(FileIO):
        def write(self, line: Any) -> int:
            return super().write(line[: len(line) // 2])

    monkeypatch.setattr(outbox_module, "_append", fill)
    tracker, file = Tracker(up=False), tmp_path / "a.unsent.jsonl"
    outbox = Outbox(file, tracker, patience=0.2)
    outbox.put({"number": 1})
    full[0] = True
    outbox.put({"number": 2})
    outbox.put({"number": 3})
    assert kept(file) == [1]
    told = f"{tmp_path} cannot be written (No space left on device); entries wait in memory"
    assert len([message for message in caplog.messages if told in message]) == 1
    if comes_back:
        full[0] = False
        outbox.put({"number": 4})
        assert kept(file) == [1, 2, 3, 4]
        tracker.up.set()
        assert outbox.close() is None
        assert tracker.got == [1, 2, 3, 4]
        return
    with monkeypatch.context() as patch:
        patch.setattr(outbox_module, "replace_file", Mock(side_effect=OSError(28, "No space left")))
        told = outbox.close() or ""
    assert "3 of 3 entries were not sent (nobody answers); 2 of them are lost" in told
    assert kept(file) == [1]


def test_a_folder_that_cannot_be_made_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tracker = Tracker()
    outbox = Outbox(tmp_path / "file/a.unsent.jsonl", tracker)
    outbox.put({"number": 1})
    outbox.close()
    assert tracker.got == [1]
