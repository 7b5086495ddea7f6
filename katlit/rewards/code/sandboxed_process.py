"""One confined process: started, served, watched, and killed for good."""

import atexit
import contextlib
import fcntl
import marshal
import os
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, Self

from katlit.output import scratch_folder
from katlit.rewards.code.starvation import Times, times_of
from katlit.text.printable import last_line

_TICK = 0.05  # seconds between looks at threads and files
_MAX_THREADS = 64
_MAX_FILES = 64
_SCRATCH_BYTES = 64 << 20
_ERROR_BYTES = 1 << 20
_CHUNK = 1 << 16
# Not -I, which would ignore the hash seed: with it the order of a set is the same in every run.
_PYTHON = ("-P", "-s", "-S", "-B", "-X", "utf8", "-X", "int_max_str_digits=0")
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # read by the interpreter, cleared before the program begins


@cache
def _own_folder(temporary: str) -> Path:
    """Where this process has its sandboxes' folders; those of killed processes are removed meanwhile."""
    folder = contextlib.ExitStack()
    atexit.register(folder.close)
    return folder.enter_context(scratch_folder(Path(temporary), "katlit-sandbox-"))


class SandboxError(Exception):
    """The sandbox failed before the program began: nothing is known of the program."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended: by itself, well or not, or killed for a limit.

    Args:
        failure: Why it did not end well, in one short printable line; empty where it did.
        output: What it wrote on standard output.
        late: Whether it was killed for its time by the clock.
        times: Processor times of the program so far.
    """

    failure: str
    output: bytes
    late: bool
    times: Times = field(compare=False)


class SandboxedProcess:
    """A program that runs; a context, at whose end nothing of it is left.

    Args:
        task: What `sandboxed.py` is to do.
        wall_seconds: Time by the clock.
        standard_input: What the program reads.
        output_bytes: It is killed where it prints more.
        descriptors: Numbers of open files that it inherits.

    Raises:
        SandboxError: where the process cannot be started.
    """

    def __init__(
        self,
        task: Mapping[str, Any],
        wall_seconds: float,
        *,
        standard_input: bytes = b"",
        output_bytes: int = _CHUNK,
        descriptors: Sequence[int] = (),
    ) -> None:
        self._output, self._errors = bytearray(), bytearray()
        self._output_bytes = output_bytes
        self._started, self._wall_seconds = time.monotonic(), wall_seconds
        self._next_look = 0.0
        self.stopped = ""  # why it was killed
        self._late = False
        self.scratch = Path(tempfile.mkdtemp(dir=_own_folder(tempfile.gettempdir())))
        try:
            self._process = self._start(task, standard_input, descriptors)
        except OSError as error:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise SandboxError(f"sandbox: no process could be started ({error.strerror})") from error
        self._open: set[IO[bytes]] = {self._pipe(name) for name in ("stdout", "stderr")}

    def _start(
        self, task: Mapping[str, Any], standard_input: bytes, descriptors: Sequence[int]
    ) -> "subprocess.Popen[bytes]":
        # Both without a name by which another program could find them.
        with tempfile.TemporaryFile() as file, _sealed(standard_input) as given:
            self._input_identity = _identity(os.fstat(given.fileno()))
            file.write(marshal.dumps(dict(task)))
            file.seek(0)
            script = str(Path(__file__).with_name("sandboxed.py"))
            return subprocess.Popen(  # noqa: S603 (our own script)
                [sys.executable, *_PYTHON, script, str(file.fileno())],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=self.scratch,
                env=_ENVIRONMENT,
                start_new_session=True,
                pass_fds=[file.fileno(), *descriptors],
            )

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] = getattr(self._process, name)
        os.set_blocking(pipe.fileno(), False)
        return pipe

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in self._open:
            pipe.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def kill(self) -> None:
        """End the process and its group, whatever they do."""
        if self._process.returncode is None:
            # Before it is reaped, while its number cannot belong to anybody else.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def ending(self) -> Ending:
        """How the program ended; it is killed if it has not.

        Raises:
            SandboxError: where it has not even begun.
        """
        times = times_of(self._process.pid, self._started)
        self.kill()
        for pipe in list(self._open):
            self._serve(pipe)  # what was printed last
        complaints, begun, errors = self._errors.partition(b"\0")
        if not begun:
            why = self.stopped or last_line(complaints) or f"status {self._process.returncode}"
            raise SandboxError(f"sandbox: the program could not be started ({why})")
        return Ending(self._failure(errors), bytes(self._output), self._late, times)

    def _failure(self, errors: bytearray) -> str:
        status = self._process.returncode
        if self.stopped or not status:
            return self.stopped
        if status == -signal.SIGXCPU:
            return "out of processor time"
        if status < 0:
            return f"killed by signal {-status}"
        return last_line(errors) or f"exit status {status}"

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have the pipes served by `watch`."""
        for pipe in self._open:
            selector.register(pipe, selectors.EVENT_READ, self)

    def serve(self, pipe: IO[bytes], selector: selectors.BaseSelector) -> None:
        """Read what can be without waiting; a pipe that has come to its end is closed."""
        if not self._serve(pipe):
            selector.unregister(pipe)
            self._open.discard(pipe)
            pipe.close()

    def _serve(self, pipe: IO[bytes]) -> bool:
        try:
            return self._read(pipe)
        except BlockingIOError:
            return True

    def _read(self, pipe: IO[bytes]) -> bool:
        output = pipe is self._process.stdout
        into, most = (self._output, self._output_bytes) if output else (self._errors, _ERROR_BYTES)
        read = os.read(pipe.fileno(), _CHUNK)
        into += read
        if len(into) > most:
            self.stopped = f"wrote more than {most} bytes"
        return bool(read)

    @property
    def silent(self) -> bool:
        """Whether it has closed its ends of the pipes, as all do that end."""
        return not self._open

    def over(self) -> bool:
        """Whether the process has ended, or must: looks at threads, files and the clock now and then."""
        now = time.monotonic()
        if not self.stopped and now >= self._next_look:
            self._next_look = now + _TICK
            self.stopped = self._excess(now)
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return ended or bool(self.stopped)

    def _excess(self, now: float) -> str:
        if now > self._started + self._wall_seconds:
            self._late = True
            return f"did not end within {self._wall_seconds:g} s"
        if _threads(self._process.pid) > _MAX_THREADS:
            return f"more than {_MAX_THREADS} threads"
        count, size = _contents(self.scratch)
        size += _nameless_bytes(self._process.pid, self._input_identity)
        if count > _MAX_FILES or size > _SCRATCH_BYTES:
            return f"more than {_MAX_FILES} files or {_SCRATCH_BYTES} bytes in them"
        return ""


def _sealed(content: bytes) -> IO[bytes]:
    """A file in memory that nobody can change, at its start.

    Standard input is one, as on the judges that programs are written for: it has a size (`os.fstat(0)`) and
    can be mapped and sought in. Sealed, since a program could else keep there what is not counted as its own.
    """
    file = os.fdopen(os.memfd_create("input", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC), "w+b", buffering=0)
    written = 0
    while written < len(content):
        written += file.write(content[written:])
    file.seek(0)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def watch(process: SandboxedProcess, *others: SandboxedProcess) -> None:
    """Serve processes until the first has ended, or one of them has gone beyond a limit."""
    processes = (process, *others)
    with selectors.DefaultSelector() as selector:
        for each in processes:
            each.register(selector)
        while not process.over() and not any(each.over() and each.stopped for each in others):
            if process.silent:
                time.sleep(0.001)  # its end comes at once
            for key, _ in selector.select(0 if process.silent else _TICK):
                key.data.serve(key.fileobj, selector)


def _threads(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("\nThreads:")[2].split("\n", 1)[0])


def _contents(folder: Path) -> tuple[int, int]:
    count = size = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += 1
            try:
                size += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # removed by the program
                continue
            if count > _MAX_FILES:
                break
    return count, size


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _nameless_bytes(process: int, given: tuple[int, int]) -> int:
    """Bytes in the files that it holds open and has removed; none where it has ended.

    Args:
        process: Its number.
        given: The device and inode of its input, which is no file of its own.
    """
    sizes = {}
    try:
        with os.scandir(f"/proc/{process}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # closed by the program
                    status = entry.stat()
                    removed = stat.S_ISREG(status.st_mode) and not status.st_nlink
                    if removed and _identity(status) != given:
                        sizes[_identity(status)] = status.st_size
    except OSError:
        return 0
    return sum(sizes.values())
