"""Replies on disk by the content of their requests: what was answered once is not asked again.

A folder of files, each of lines `CRC DATA`: eight hexadecimal digits, and a JSON array of a key and a value.
Every process appends to a file of its own, with one system call a line. So whatever is killed loses at most
the line that it was about to write, of which a part may end its file; that part does not count. All other
lines must fit their checksums.
"""

import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from katlit.errors import UserError

_SECONDS = 1.0  # between two calls of fsync: what a machine that loses its power may forget
_DIGITS = 8  # of a checksum


def request_key(*content: Any) -> str:
    """Return the key of a request: a hash of all that its reply depends on.

    Args:
        content: What JSON can write.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


class _Place(NamedTuple):
    """Where a line is."""

    path: Path
    start: int
    length: int


class ReplyCache:
    """Values by key, that survive whatever ends the process; several processes may write at once.

    Of two values of one key that with the lower number of its file counts, on every later run alike.

    Args:
        folder: Where the files are; made with the first value.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, _Place] | None = None
        self._own: int | None = None  # descriptor of the file that this process appends to
        self._own_path = folder
        self._end = 0  # of that file
        self._synced = 0.0
        self._disk: ThreadPoolExecutor | None = None  # it may take a tenth of a second: others go on
        self._sync: Future[None] | None = None

    def get(self, key: str) -> Any | None:
        """Return the value of a key; None where there is none.

        Raises:
            UserError: where a file is damaged, naming it, the line, and what to do.
        """
        place = self._index().get(key)
        if place is None:
            return None
        with place.path.open("rb") as file:
            file.seek(place.start)
            return json.loads(file.read(place.length)[_DIGITS + 1 :])[1]

    def put(self, key: str, value: Any) -> None:
        """Append a value to this process's file; of a key that is known it changes nothing.

        Raises:
            UserError: where it cannot be written.
        """
        places = self._index()
        if key in places:
            return
        data = json.dumps([key, value], separators=(",", ":")).encode()
        line = f"{zlib.crc32(data):0{_DIGITS}x} ".encode() + data + b"\n"
        try:
            self._append(line)
        except OSError as error:
            raise UserError(
                f"{self._own_path}: cannot write ({error.strerror}); make room there, or choose another "
                "cache_dir; the replies so far are kept"
            ) from error
        places[key] = _Place(self._own_path, self._end, len(line))
        self._end += len(line)

    def _append(self, line: bytes) -> None:
        if self._own is None or self._disk is None:
            self._own, self._disk = self._create(), ThreadPoolExecutor(1)
        if os.write(self._own, line) != len(line):
            self._leave()  # no line may follow a part of one
            raise OSError(0, "only a part was written: the disk is full")
        now = time.monotonic()
        if now - self._synced >= _SECONDS:
            self._wait()
            self._sync = self._disk.submit(os.fsync, self._own)
            self._synced = now

    def _wait(self) -> None:
        """Wait until what was last sent to the disk is there."""
        sync, self._sync = self._sync, None
        if sync is not None:
            sync.result()

    def _leave(self) -> None:
        """Make sure that the file of this process is on the disk, and close it."""
        if self._own is None or self._disk is None:
            return
        own, self._own = self._own, None
        self._disk.shutdown()
        try:
            self._wait()
            os.fsync(own)
        finally:
            os.close(own)

    def _create(self) -> int:
        """A file that no other process has, after all others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number in count(len(list(self.folder.iterdir()))):
            self._own_path, self._end = self.folder / f"{number:06d}.jsonl", 0
            try:
                return os.open(self._own_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            except FileExistsError:
                continue
        raise AssertionError

    def close(self) -> None:
        """Make sure that all is on the disk, and forget what is known; a later `get` reads anew."""
        self._places = None
        self._leave()

    def _index(self) -> dict[str, _Place]:
        if self._places is None:
            self._places = {}
            for path in sorted(self.folder.glob("*.jsonl")):
                for key, place in _lines(path):
                    self._places.setdefault(key, place)
        return self._places


def _lines(path: Path) -> Iterator[tuple[str, _Place]]:
    """The keys of a file, and where their lines are."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # its writer was killed, or is at it
            data = line[_DIGITS + 1 : -1]
            if line[: _DIGITS + 1] != f"{zlib.crc32(data):0{_DIGITS}x} ".encode():
                raise UserError(
                    f"{path}:{number}: damaged, the checksum of this line is another; delete it (sed -i "
                    f"{number}d {path}), and what it held is asked for again"
                )
            yield json.loads(data)[0], _Place(path, start, len(line))
            start += len(line)
