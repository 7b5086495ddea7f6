"""A queue on disk between a run and its tracker: whatever the tracker does, nobody waits for it."""

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

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
    entry may be sent twice, where a run was killed in between.

    Args:
        file: Where entries wait; its name ends with `SUFFIX`.
        send: Sends one entry. Raises `Refused`, or OSError where it is to be sent again.
        patience: How many seconds `close` waits without any progress.
        told: Why the tracker is not there, where somebody has said so already.
    """

    def __init__(
        self, file: Path, send: Callable[[Entry], None], patience: float = 30.0, told: str = ""
    ) -> None:
        self.path = file
        self._send = send
        self._patience = patience
        self._changed = threading.Condition()
        opened = _locked(file, patience=1.0)
        if opened is None:
            raise FileExistsError(file)
        self._file = opened
        self._written = 0
        self._sent = 0
        self._refused: list[str] = []
        self._why = told
        self._closing = self._gave_up = self._uploading = False
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Write an entry down to be sent."""
        line = json.dumps(entry).encode() + b"\n"
        with self._changed:
            self._file.write(line)
            self._file.flush()
            self._written += 1
            self._changed.notify_all()

    def close(self) -> str | None:
        """Wait while entries go out; what to tell where some do not."""
        with self._changed:
            self._closing, self._progress = True, time.monotonic()
            self._changed.notify_all()
            while self._thread.is_alive() and not self._is_stuck():
                self._changed.wait(0.1)
            self._gave_up = True
            unsent = self._written - self._sent
        self._keep_the_rest(unsent)
        if unsent:
            return f"{unsent} of {self._written} entries were not sent ({self._why or 'no answer'})"
        return f"{len(self._refused)} entries were refused ({self._why})" if self._refused else None

    def _is_stuck(self) -> bool:
        return not self._uploading and time.monotonic() - self._progress > self._patience

    def _keep_the_rest(self, unsent: int) -> None:
        """Leave in the file what was not sent, or refused; remove it where that is nothing."""
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        rest = self._refused + lines[len(lines) - unsent :]
        if rest:
            self.path.write_text("".join(rest), encoding="utf-8")
        else:
            self.path.unlink()
        self._file.close()

    def _work(self) -> None:
        _send_left_over(self.path.parent, self._send)
        with self.path.open("rb") as lines:
            while self._wait_for_work():
                self._send_one(lines.readline())

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._sent < self._written or self._closing)
            return self._sent < self._written and not self._gave_up

    def _send_one(self, line: bytes) -> None:
        pause, entry = 0.1, json.loads(line)
        while not self._gave_up:
            try:
                self._uploading = entry.get("kind") in _LARGE
                self._send(entry)
            except Refused as refusal:
                self._why = redact(str(refusal))
                self._refused.append(line.decode())
            except OSError as error:
                why = redact(str(error))
                if not self._why:
                    logger.warning("tracking: no success (%s); entries wait in %s", why, self.path)
                self._why, self._uploading = why, False
                with self._changed:
                    self._changed.wait_for(lambda: self._gave_up, pause)
                pause = min(2 * pause, MAX_PAUSE)
                continue
            with self._changed:
                self._sent += 1
                self._progress, self._uploading = time.monotonic(), False
            return


def _locked(file: Path, patience: float = 0.0) -> BinaryIO | None:
    """The file, open for appending and held by this process while it lives; None where another holds it.

    Another run that looks for what was left may hold, and remove, a file that was made this moment.

    Args:
        file: Made where it is missing.
        patience: How many seconds to wait for another one to let go.
    """
    deadline = time.monotonic() + patience
    while True:
        opened = file.open("ab")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            opened.close()
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.01)
            continue
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                return opened
        opened.close()


def _send_left_over(folder: Path, send: Callable[[Entry], None]) -> None:
    """Send what runs that are over have left, as far as the tracker takes it."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        lock = _locked(path)
        if lock is None:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        if all(_was_taken(line, send) for line in lines):
            path.unlink()
            logger.info("tracking: %d entries that an earlier run left in %s were sent", len(lines), path)
        lock.close()


def _was_taken(line: str, send: Callable[[Entry], None]) -> bool:
    try:
        send(json.loads(line))
    except (OSError, Refused, json.JSONDecodeError):  # a kill may have cut the last line
        return False
    return True
