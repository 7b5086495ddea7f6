"""Programs that answer requests, each within a time, or are killed; whatever thread asks."""

import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from katlit.text.printable import last_line

START_SECONDS = 120.0  # for a worker to be ready, on a machine that is busy
MAX_REPLY = 2**16  # bytes
_MAX_COMPLAINTS = 2**16  # bytes: as much as a pipe holds


class WorkerError(Exception):
    """A worker died or replied with something else; in a short line with the cause."""


class StartError(WorkerError):
    """A worker never began."""


class Worker:
    """A Python program in a process of its own that replies to a line of JSON with one.

    Args:
        script: The program; it says a line when it is ready, and ends with its standard input. It gets an
            empty environment, and its directory is not on the path.
        arguments: Arguments of the program.

    Raises:
        StartError: where it does not become ready.
    """

    def __init__(self, script: Path, arguments: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, "-I", str(script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                bufsize=0,
            )
        except OSError as error:
            raise StartError(f"no process could be started: {error.strerror}") from error
        self._requests, self._replies, self._errors = (
            self._pipe(name) for name in ("stdin", "stdout", "stderr")
        )
        os.set_blocking(self._errors.fileno(), False)
        try:
            self._line(time.monotonic() + START_SECONDS)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError | WorkerError):
                raise StartError(str(error) or f"not ready within {START_SECONDS:g} s") from error
            raise

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] = getattr(self._process, name)
        return pipe

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The reply.

        Raises:
            TimeoutError: where there is none in time. Close the worker then, as after any error.
            WorkerError: where the worker died, or replied with something else.
        """
        deadline = time.monotonic() + seconds
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._death(b"") from error
        line = self._line(deadline)
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise WorkerError("the worker's reply is no JSON") from error
        return reply

    def _line(self, deadline: float) -> bytes:
        """The next line that the worker writes."""
        line, complaints = b"", b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            selector.register(self._errors, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                ready = [key.fileobj for key, _ in selector.select(left)] if left > 0 else []
                if not ready:
                    raise TimeoutError
                if self._errors in ready:  # read, lest the worker waits for room there
                    part = self._errors.read(_MAX_COMPLAINTS)
                    complaints = (complaints + part)[-_MAX_COMPLAINTS:]
                    if not part:
                        selector.unregister(self._errors)
                if self._replies in ready:
                    part = self._replies.read(MAX_REPLY)
                    line += part
                    if not part:
                        raise self._death(complaints)
                    if len(line) > MAX_REPLY:
                        raise WorkerError("the worker's reply is too long")
        return line

    def _death(self, complaints: bytes) -> WorkerError:
        """What is known of the worker's end."""
        complaints += self._errors.read(_MAX_COMPLAINTS) or b""
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may live on, without its output
            self._process.wait(1)
        return WorkerError(
            f"the worker died: {last_line(complaints) or f'status {self._process.returncode}'}"
        )

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._replies, self._errors):
            pipe.close()


class WorkerPool:
    """Workers that start when they are needed and are used again; a late or a dead one is replaced.

    May be used from several threads at once.

    Args:
        script: The workers' program, see `Worker`.
        arguments: Arguments of the program.
        number: Most workers at a time.
        seconds: That a reply may take.
    """

    def __init__(self, script: Path, arguments: Sequence[str], number: int, seconds: float) -> None:
        self.script = script
        self.arguments = list(arguments)
        self.number = number
        self.seconds = seconds
        self._proven = False  # a worker has begun
        self._slots: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(number):
            self._slots.put(None)

    def ask_all(
        self, requests: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any] | TimeoutError | WorkerError]:
        """The replies in order of the requests, or why there is none; they do not depend on `number`.

        Raises:
            StartError: where no worker has ever begun, so that none is likely to.
        """
        if len(requests) < 2 or self.number == 1:
            return [self.ask(request) for request in requests]
        with ThreadPoolExecutor(min(self.number, len(requests))) as threads:
            return list(threads.map(self.ask, requests))

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | TimeoutError | WorkerError:
        """One reply, or why there is none; raises as `ask_all`."""
        worker = self._slots.get()
        try:
            worker = worker or Worker(self.script, self.arguments)
            self._proven = True
            return worker.ask(request, self.seconds)
        except BaseException as error:  # an interrupt too: the reply to come would answer the next request
            if worker is not None:
                worker.close()
            worker = None
            if isinstance(error, TimeoutError | WorkerError) and self._proven:
                return error
            raise
        finally:
            self._slots.put(worker)

    def close(self) -> None:
        """Kill the workers, once nobody waits for one; a later request starts new ones."""
        workers = [self._slots.get() for _ in range(self.number)]
        for worker in workers:
            if worker is not None:
                worker.close()
            self._slots.put(None)
