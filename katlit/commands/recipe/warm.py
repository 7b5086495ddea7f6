"""Starts commands without their imports: a process that has done them once forks for each command.

On a laptop the imports of torch, Lightning and vLLM take longer than many a step of a small recipe. What the
other process does is `katlit.forking`.
"""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from katlit.errors import UserError

# What most commands need; a function is called.
_IMPORTS = (
    "katlit.commands.trainer",
    "katlit.modules",
    "katlit.datamodules",
    "katlit.callbacks",
    "katlit.engines",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "reasoning_gym",
    "katlit.engines.vllm.isolation:import_vllm",
)
_GPUS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd", "/dev/accel")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
NUMBER = struct.Struct("!q")


def is_possible() -> bool:
    """Whether commands may be forked: a process that has looked at a GPU may not, and Linux alone is safe."""
    return sys.platform == "linux" and not any(Path(gpu).exists() for gpu in _GPUS)


class WarmStart:
    """The process that forks; it is started with the first command. A context manager.

    Args:
        lock: An open file that each command inherits, see `alone`.
        imports: What is imported beforehand, as modules, or functions to call as `module:name`.
    """

    def __init__(self, lock: int, imports: Sequence[str] = _IMPORTS) -> None:
        self._lock = lock
        self._imports = imports
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._command: WarmCommand | None = None

    def __enter__(self) -> "WarmStart":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what a signal has left running, and the process that forks."""
        if self._command is not None:
            with suppress(UserError):
                self._command.terminate()
                self._command.wait()
        if self._process is not None and self._line is not None:
            self._line.close()
            if self._command is None:
                self._process.kill()  # it need not import the rest
            self._process.wait()

    @property
    def is_running(self) -> bool:
        """Whether the imports are done, or being done."""
        return self._line is not None

    def start(self, words: Sequence[str], environment: Mapping[str, str]) -> "WarmCommand":
        """Start `katlit` with these words in this environment.

        Raises:
            UserError: where the process that forks has ended.
        """
        if self._line is None:
            self._line, theirs = socket.socketpair()
            program = [sys.executable, "-m", "katlit.forking", str(theirs.fileno()), *self._imports]
            self._process = subprocess.Popen(program, pass_fds=(self._lock, theirs.fileno()))  # noqa: S603 (our own)
            theirs.close()
            _receive(self._line, [])  # all is imported; who ends before has ordered nothing
        order = json.dumps({"words": list(words), "environment": dict(environment)})
        command = WarmCommand(self._line)
        with _held(), suppress(ConnectionError):  # where it fails there is nothing to receive either
            self._command = command
            self._line.sendall(f"{order}\n".encode())
        return command


class WarmCommand:
    """A command that was ordered; it is waited for and ended as a `subprocess.Popen` is.

    Args:
        line: What leads to the process that forks, and tells the command's process and then its status.
    """

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._told: list[int] = []

    @property
    def pid(self) -> int:
        """Its process.

        Raises:
            UserError: where the process that forks has ended before.
        """
        if not self._told:
            _receive(self._line, self._told)
        return self._told[0]

    def wait(self) -> int:
        """Its exit status, once it has ended.

        Raises:
            UserError: where the process that forks has ended before; a command that it told of is ended too.
        """
        pid = self.pid
        if len(self._told) == 1:
            try:
                _receive(self._line, self._told)
            except UserError:
                self.terminate()
                while is_alive(pid):
                    time.sleep(0.05)
                raise
        return self._told[1]

    def terminate(self) -> None:
        """Ask it to end, if it has not."""
        pid = self.pid
        if len(self._told) == 1:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def is_alive(pid: int) -> bool:
    """Whether a process works still; one that nobody has asked for its status does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _receive(line: socket.socket, told: list[int]) -> None:
    """Add the next number to those that were told; no signal comes between its arrival and that."""
    select.select([line], [], [])
    with _held():
        said = b""
        with suppress(ConnectionError):
            said = line.recv(NUMBER.size, socket.MSG_WAITALL)
        if len(said) == NUMBER.size:
            told += NUMBER.unpack(said)
            return
    raise UserError(
        "the process that starts the commands has ended, perhaps for want of memory; call `katlit run` "
        "again, which goes on from here"
    )


@contextmanager
def _held() -> Iterator[None]:
    """Have the signals that end a command wait for the end of the block; in whichever thread they come."""
    came: list[int] = []
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)
