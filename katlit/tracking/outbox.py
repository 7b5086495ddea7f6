"""A queue on disk between a run and its tracker: whatever the tracker does, nobody waits for it."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from katlit.output import replace_file
from katlit.tracking.redaction import redact

logger = logging.getLogger(__name__)

Entry = dict[str, Any]  # `kind`, and what is sent
SUFFIX = ".unsent.jsonl"
MAX_PAUSE = 10.0  # seconds between two attempts, at most
_LARGE = ("file", "folder")  # kinds of entries that may take any time, as long as nothing fails


class Refused(Exception):  # noqa: N818 (an answer)
    """The tracker is there and does not want an entry: no use to offer it again."""


class Outbox:
    """Entries in the order in which they came, each sent by a thread when the tracker takes it.

    An entry is a line of a file before `put` returns, so neither a tracker that hangs nor a kill of the run
    loses it: what an earlier run has left in the folder is sent too. The file goes when nothing is left. An
    entry may be sent twice, where a run was killed in between. While the disk is full, they wait in memory.

    Args:
        file: Where entries wait; its name ends with `SUFFIX`.
        send: Sends one entry. Raises `Refused`, or OSError where it is to be sent again.
        patience: How many seconds `close` waits without any progress.
        told: Why the tracker is not there, where somebody has said so already.
        left_over: Begins the names of files of runs of before that this tracker is to get.
    """

    def __init__(
        self,
        file: Path,
        send: Callable[[Entry], None],
        patience: float = 30.0,
        told: str = "",
        left_over: str = "",
    ) -> None:
        self.path = file
        self._send = send
        self._patience = patience
        self._pattern = f"{left_over}*{SUFFIX}"
        self._changed = threading.Condition()
        self._file: FileIO | None = None
        self._lengths: deque[int] = deque()  # of the lines of the file that no attempt was made to send
        self._offset = 0  # of the first of them
        self._memory: deque[bytes] = deque()  # what comes after the file, which the disk does not take
        self._current: bytes | None = None  # what is being sent
        self._written = self._sent = 0
        self._refused: list[bytes] = []
        self._why, self._refusal = told, ""
        self._full = self._closing = self._gave_up = self._uploading = False
        self._progress = time.monotonic()
        self._write_down()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Write an entry down to be sent."""
        line = json.dumps(entry).encode() + b"\n"
        with self._changed:
            self._memory.append(line)
            self._written += 1
            self._write_down()
            self._changed.notify_all()

    def _write_down(self) -> None:
        """Move what is in memory to the file; what the disk does not take stays, which is told once."""
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _locked(self.path, patience=1.0)
            while self._memory:
                _append(self._file, self._memory[0])
                self._lengths.append(len(self._memory.popleft()))
        except OSError as error:
            if not self._full:
                text = "tracking: %s cannot be written (%s); entries wait in memory, make room there"
                logger.warning(text, self.path.parent, error.strerror or error)
            self._full = True

    def close(self) -> str | None:
        """Wait while entries go out; what to tell where some do not."""
        with self._changed:
            self._closing, self._progress = True, time.monotonic()
            self._changed.notify_all()
            while self._thread.is_alive() and not self._is_stuck():
                self._changed.wait(0.1)
            self._gave_up = True
            unsent = self._written - self._sent
            told = [
                f"{unsent} of {self._written} entries were not sent ({self._why or 'no answer'})"
                * (unsent > 0),
                f"{len(self._refused)} entries were refused ({self._refusal})" * bool(self._refused),
                self._keep_the_rest(),
            ]
        return "; ".join(filter(None, told)) or None

    def _is_stuck(self) -> bool:
        return not self._uploading and time.monotonic() - self._progress > self._patience

    def _keep_the_rest(self) -> str:
        """Leave in the file what was not sent, or refused; remove it where that is nothing."""
        waiting = (
            b"" if self._file is None else os.pread(self._file.fileno(), sum(self._lengths), self._offset)
        )
        current = [] if self._current is None else [self._current]
        told = ""
        try:
            _leave(self.path, [*self._refused, *current, waiting, *self._memory])
        except OSError as error:  # the file stays as it is, with what was sent
            why = f"{self.path.parent} cannot be written: {error.strerror}"
            told = f"{len(self._memory)} of them are lost ({why})" * bool(self._memory)
        if self._file is not None:
            self._file.close()
        return told

    def _work(self) -> None:
        done = self._send_left_over()
        while (line := self._next()) is not None:
            self._send_one(line)
        if not done and not self._gave_up:  # by now the tracker may be there
            self._send_left_over()

    def _next(self) -> bytes | None:
        """The next entry, waited for; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._sent < self._written or self._closing)
            if self._gave_up or self._sent == self._written:
                return None
            if self._lengths and self._file is not None:
                self._current = os.pread(self._file.fileno(), self._lengths[0], self._offset)
                self._offset += self._lengths.popleft()
            else:
                self._current = self._memory.popleft()
            return self._current

    def _send_one(self, line: bytes) -> None:
        pause = 0.1
        while not self._gave_up:
            try:
                self._attempt(line)
            except Refused as refusal:
                self._refusal = redact(str(refusal))
                self._refused.append(line)
            except OSError as error:
                why = redact(str(error))
                if not self._why:
                    logger.warning("tracking: no success (%s); entries wait in %s", why, self.path)
                with self._changed:
                    self._why = why
                    self._changed.wait_for(lambda: self._gave_up, pause)
                pause = min(2 * pause, MAX_PAUSE)
                continue
            with self._changed:
                self._sent += 1
                self._current = None
            return

    def _attempt(self, line: bytes) -> None:
        """Offer a line to the tracker."""
        entry, answered = _entry(line), True
        self._uploading = entry.get("kind") in _LARGE
        try:
            self._send(entry)
        except OSError:
            answered = False
            raise
        finally:
            self._uploading = False
            if answered:
                self._progress = time.monotonic()

    def _send_left_over(self) -> bool:
        """Send what runs that are over have left; whether the tracker has answered all the time."""
        for path in sorted(self.path.parent.glob(self._pattern)):
            try:
                with _locked(path):
                    if not self._send_file(path):
                        return False
            except OSError as error:  # it is of a run that lives, or of another user
                logger.debug("tracking: %s is left alone (%s)", path, error)
        return True

    def _send_file(self, path: Path) -> bool:
        """Send what a file holds, line by line, and leave in it what the tracker does not take now."""
        lines, number, dropped = path.read_bytes().splitlines(keepends=True), 0, []
        try:
            for line in lines:
                if self._gave_up:
                    break
                try:
                    self._attempt(line)
                except Refused as refusal:
                    dropped.append(redact(str(refusal)))
                number += 1
        except OSError as error:
            logger.debug("tracking: entries stay in %s (%s)", path, error)
        if number:
            _leave(path, lines[number:])
            told = "tracking: %d of %d entries of %s, of an earlier run, were sent"
            logger.info(told, number - len(dropped), len(lines), path)
        if dropped:
            text = "tracking: %d entries that an earlier run left in %s were refused and are dropped (%s)"
            logger.warning(text, len(dropped), path, "; ".join(dict.fromkeys(dropped)))
        elif not lines:
            _leave(path, [])
        return number == len(lines)


def _entry(line: bytes) -> Entry:
    """What a line holds; a kill, or a full disk, may have cut off the last one."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise Refused("a line is cut off")
    return entry


def _append(file: FileIO, line: bytes) -> None:
    """Add a line to a file, whole or not at all."""
    size = os.fstat(file.fileno()).st_size
    try:
        written = file.write(line)
    except OSError:
        file.truncate(size)
        raise
    if written != len(line):
        file.truncate(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _leave(path: Path, lines: Sequence[bytes]) -> None:
    """Write lines into a file, in the place of what it held; without any it is removed."""
    if any(lines):
        replace_file(path, b"".join(lines))
    else:
        path.unlink(missing_ok=True)


def _locked(file: Path, patience: float = 0.0) -> FileIO:
    """The file, open for appending and held by this process while it lives.

    Another run that looks for what was left may hold, and remove, a file that was made this moment.

    Args:
        file: Made where it is missing.
        patience: How many seconds to wait for another one to let go.

    Raises:
        OSError: where it cannot be made, or another one holds it.
    """
    deadline = time.monotonic() + patience
    while True:
        opened = FileIO(file, "a+")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            opened.close()
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                return opened
        opened.close()
