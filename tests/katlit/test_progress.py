import logging
import re
import time
from itertools import accumulate
from types import SimpleNamespace

import pytest
from lightning.fabric.utilities import rank_zero_only

from katlit import progress
from katlit.progress import Progress, reported, told_while


def test_a_line_comes_every_ten_seconds_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = accumulate([0.0, 0.0, *[4.0] * 10])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with caplog.at_level(logging.INFO, "katlit"):
        assert list(reported("abcdefg", "letters read")) == [*"abcdefg"]
    assert caplog.messages == [
        "letters read: 3 of 7, 0.2 a second, 0:00:16 left",
        "letters read: 6 of 7, 0.2 a second, 0:00:04 left",
    ]


def test_a_batch_tells_what_was_there_the_rate_the_kept_share_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = accumulate([0.0, *[4.0] * 10, 100.0, *[5.0] * 2])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    told = Progress()
    with caplog.at_level(logging.INFO, "katlit"):
        told.begin("think-on", total=20, known=10)
        for _ in range(10):
            told.step()
        told.judged, told.kept = 20, 15
        told.begin("think-on", total=2, known=0)
        told.step()
        told.step()
    assert caplog.messages == [
        "think-on: 13 of 20 replies, 0.2 a second, 0:00:28 left",
        "think-on: 16 of 20 replies, 0.2 a second, 0:00:16 left",
        "think-on: 19 of 20 replies, 0.2 a second, 0:00:04 left",
        "think-on: 2 of 2 replies, 0.2 a second, 75% of 20 judged kept, 0:00:00 left",
    ]


def test_the_first_replies_tell_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = accumulate([0.0, *[11.0] * 80])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    told = Progress()
    with caplog.at_level(logging.INFO, "katlit"):
        told.begin("think-on", total=1100, known=100)
        for _ in range(11):
            told.step()
        told.begin("think-on", total=64_000, known=0)
        for _ in range(64):
            told.step()
    assert caplog.messages[8:10] == [
        "think-on: 109 of 1100 replies, 0.1 a second, the time left is not known yet",
        "think-on: 110 of 1100 replies, 0.1 a second, 3:01:30 left",
    ]
    assert caplog.messages[-2].endswith(" yet")
    assert caplog.messages[-1].endswith(" left")


def test_what_takes_long_is_told_while_it_runs_and_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(progress, "SECONDS", 0.01)
    with told_while("a start", lines.append):
        while not lines:
            time.sleep(0.01)
    assert re.fullmatch(r"a start: \d+ s so far", lines[0])
    assert re.fullmatch(r"a start: done after \d+ s", lines[-1])


def test_what_is_quick_or_another_processes_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with told_while("a start", lines.append):
        pass
    monkeypatch.setattr(progress, "SECONDS", 0.01)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning does before the processes meet
    with told_while("a start", lines.append):
        time.sleep(0.03)
    assert lines == []


def test_what_fails_is_not_told_to_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(progress, "SECONDS", 0.01)

    @told_while("a start", lines.append)
    def start() -> None:
        while not lines:
            time.sleep(0.01)
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        start()
    assert all(re.fullmatch(r"a start: \d+ s so far", line) for line in lines)
