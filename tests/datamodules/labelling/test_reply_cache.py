"""What is on disk counts whoever wrote it and however it ended; what is damaged is named."""

import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from katlit.datamodules.labelling.reply_cache import ReplyCache, request_key
from katlit.errors import UserError

VALUE = {"tokens": [1, 2, 3], "text": "é\n"}
KEYS = [request_key("model", number) for number in range(4)]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder of one file with four lines."""
    cache = ReplyCache(tmp_path / "replies")
    for number, key in enumerate(KEYS):
        cache.put(key, VALUE | {"number": number})
    cache.close()
    (file,) = (tmp_path / "replies").iterdir()
    return file


def values(folder: Path) -> list[int | None]:
    cache = ReplyCache(folder)
    found = [cache.get(key) for key in KEYS]
    return [None if value is None else value["number"] for value in found]


def test_a_request_is_known_by_all_its_content() -> None:
    assert len({request_key([1, 2], {"a": 1, "b": 2}, 3), request_key([1, 2], {"b": 2, "a": 1}, 3)}) == 1
    assert len({request_key([1], 2), request_key([1, 2]), request_key([2], 2), request_key([1], "2")}) == 4


def test_what_was_put_is_there_at_once_and_later(tmp_path: Path, written: Path) -> None:
    cache = ReplyCache(tmp_path / "new")
    assert cache.get(KEYS[0]) is None
    cache.put(KEYS[0], VALUE)
    cache.put(KEYS[0], "another")
    assert cache.get(KEYS[0]) == VALUE
    cache.close()
    assert cache.get(KEYS[0]) == VALUE
    assert values(written.parent) == [0, 1, 2, 3]


def test_each_process_has_a_file_and_the_first_counts(written: Path) -> None:
    first, second = ReplyCache(written.parent), ReplyCache(written.parent)
    more = request_key("more")
    assert first.get(more) is second.get(more) is None
    first.put(more, 1)
    second.put(more, 2)
    assert len(list(written.parent.iterdir())) == 3
    assert ReplyCache(written.parent).get(more) == 1
    for cache in (first, second):
        cache.close()
        assert cache.get(more) == 1


@pytest.mark.parametrize("bytes_left", [0, 1, 5, 12, 40])
def test_a_last_line_that_is_no_whole_one_is_dropped(written: Path, bytes_left: int) -> None:
    whole = written.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    written.write_bytes(whole[: last + bytes_left])
    assert values(written.parent) == [0, 1, 2, None]
    again = ReplyCache(written.parent)
    again.put(KEYS[3], VALUE | {"number": 3})
    assert values(written.parent) == [0, 1, 2, 3]


def test_every_flipped_bit_and_every_cut_line_is_named(written: Path) -> None:
    whole = written.read_bytes()
    second = whole.index(b"\n") + 1
    end = whole.index(b"\n", second)
    told = (
        rf"^{written}:2: damaged, .* delete it \(sed -i 2d {written}\), and what it held is asked for again$"
    )
    damaged = [
        whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
        for place in range(second, end + 1)
        for bit in (0, 5)
    ]
    damaged += [whole[: second + kept] + whole[end:] for kept in (0, 3, 9, 20)]
    for content in damaged:
        written.write_bytes(content)
        with pytest.raises(UserError, match=told):
            ReplyCache(written.parent).get(KEYS[0])
    written.write_bytes(whole[:second] + whole[end + 1 :])  # the mend
    assert values(written.parent) == [0, None, 2, 3]


def test_a_busy_disk_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, waited = Event(), list[bool]()
    monkeypatch.setattr(os, "fsync", lambda file: waited.append(free.wait(5)))
    cache = ReplyCache(tmp_path)
    for number, key in enumerate(KEYS):
        cache.put(key, {"number": number})
    free.set()
    cache.close()
    assert waited == [True, True]  # one in a second, and one at the end
    assert values(tmp_path) == [0, 1, 2, 3]


def test_a_disk_that_fails_later_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(5, "it is broken")

    cache = ReplyCache(tmp_path)
    monkeypatch.setattr(os, "fsync", fail)
    cache.put(KEYS[0], 1)
    monkeypatch.undo()
    with pytest.raises(OSError, match="it is broken"):
        cache.close()


def test_a_full_disk_is_told_and_what_was_written_is_kept(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, write = ReplyCache(written.parent), os.write
    cache.put(request_key("fits"), 1)
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:20]))
    with pytest.raises(UserError, match=r"000001\.jsonl: cannot write \(only a part .* make room there"):
        cache.put(request_key("does not"), 2)
    monkeypatch.undo()
    cache.put(request_key("fits again"), 3)
    read = ReplyCache(written.parent)
    assert [read.get(request_key(word)) for word in ("fits", "does not", "fits again")] == [1, None, 3]
    assert values(written.parent) == [0, 1, 2, 3]


def test_kill_9_loses_nothing_that_was_put(tmp_path: Path) -> None:
    """The values that the process has reported before it is killed, all without a close."""
    program = (
        "import runpy, sys; from pathlib import Path\n"  # not by its name: the packages above take seconds
        "cache = runpy.run_path(sys.argv[2])['ReplyCache'](Path(sys.argv[1]))\n"
        "for number in range(10**9):\n"
        "    cache.put(str(number), number)\n"
        "    print(number, flush=True)\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path), inspect.getsourcefile(ReplyCache)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        reported = [int(run.stdout.readline()) for _ in range(500)][-1]
        run.send_signal(signal.SIGKILL)
    cache = ReplyCache(tmp_path)
    assert [cache.get(str(number)) for number in range(reported + 1)] == list(range(reported + 1))
