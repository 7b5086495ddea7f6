"""Programs that answer requests, each within a time, or are killed; whatever thread asks."""

import json
import queue
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

START_SECONDS = 120.0  # for a worker to be ready, on a machine that is busy
MAX_REPLY = 2**16  # bytes


class WorkerError(Exception):
    """A worker died, or never began."""


class Worker:
    """A Python program in a process of its own that replies to a line of JSON with one.

    Args:
        script: The program; it says a line when it is ready, and ends with its standard input. It gets an
            empty environment, and its directory is not on the path.
        arguments: Of the program.
    """

    def __init__(self, script: Path, arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, "-I", str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            bufsize=0,
        )
        try:
            self._line(time.monotonic() + START_SECONDS)
        except BaseException:
            self.close()
            raise

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The reply.

        Raises:
            TimeoutError: where there is none in time. Close the worker then, as after any error.
            WorkerError: where the worker died, or replied with something else.
        """
        deadline = time.monotonic() + seconds
        assert self._process.stdin is not None  # noqa: S101 (for mypy)
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise WorkerError(f"the worker died: {error}") from error
        line = self._line(deadline)
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise WorkerError("the worker's reply is no JSON") from error
        return reply

    def _line(self, deadline: float) -> bytes:
        """The next line that the worker writes."""
        assert self._process.stdout is not None  # noqa: S101 (for mypy)
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise TimeoutError
            part = self._process.stdout.read(MAX_REPLY)
            line += part or b""
            if not part or len(line) > MAX_REPLY:
                raise WorkerError("the worker died")
        return line

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class WorkerPool:
    """Workers that start when they are needed and are used again; a late or a dead one is replaced.

    May be used from several threads at once.

    Args:
        script: The workers' program, see `Worker`.
        arguments: Of the program.
        number: Most workers at a time.
        seconds: That a reply may take.
    """

    def __init__(self, script: Path, arguments: Sequence[str], number: int, seconds: float) -> None:
        self.script = script
        self.arguments = list(arguments)
        self.number = number
        self.seconds = seconds
        self._slots: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(number):
            self._slots.put(None)

    def ask_all(
        self, requests: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any] | TimeoutError | WorkerError]:
        """The replies in order of the requests, or why there is none; they do not depend on `number`."""
        if len(requests) < 2 or self.number == 1:
            return [self.ask(request) for request in requests]
        with ThreadPoolExecutor(min(self.number, len(requests))) as threads:
            return list(threads.map(self.ask, requests))

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | TimeoutError | WorkerError:
        """One reply, or why there is none."""
        worker = self._slots.get()
        try:
            worker = worker or Worker(self.script, self.arguments)
            return worker.ask(request, self.seconds)
        except (TimeoutError, WorkerError) as error:
            if worker is not None:
                worker.close()
            worker = None
            return error
        finally:
            self._slots.put(worker)

    def close(self) -> None:
        """Kill the workers, once nobody waits for one; a later request starts new ones."""
        workers = [self._slots.get() for _ in range(self.number)]
        for worker in workers:
            if worker is not None:
                worker.close()
            self._slots.put(None)
