"""Starts commands without their imports: a process that has done them once forks for each command.

On a laptop the imports of torch, Lightning and vLLM take longer than many a step of a small recipe.
"""

import atexit
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType

from katlit import cli
from katlit.errors import UserError

_MODULES = (
    "katlit.commands.trainer",
    "katlit.modules",
    "katlit.datamodules",
    "katlit.callbacks",
    "katlit.engines",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "reasoning_gym",
    "vllm",
)
_GPUS = ("/dev/nvidiactl", "/dev/kfd")
_NUMBER = struct.Struct("!q")


def is_possible() -> bool:
    """Whether commands may be forked: a process that has looked at a GPU may not, and Linux alone is safe."""
    return sys.platform == "linux" and not any(Path(gpu).exists() for gpu in _GPUS)


class WarmStart:
    """The process that forks; it is started with the first command. A context manager.

    Args:
        lock: An open file that each command inherits, see `alone`.
        modules: What is imported beforehand.
    """

    def __init__(self, lock: int, modules: Sequence[str] = _MODULES) -> None:
        self._lock = lock
        self._modules = modules
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def __enter__(self) -> "WarmStart":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._line is not None:
            self._line.close()
            self._process.wait()

    def start(self, words: Sequence[str], environment: Mapping[str, str]) -> "WarmCommand":
        """Start `katlit` with these words in this environment.

        Raises:
            UserError: where the process that forks has ended.
        """
        if self._line is None:
            self._line, theirs = socket.socketpair()
            program = [sys.executable, "-m", __name__, str(theirs.fileno()), *self._modules]
            self._process = subprocess.Popen(program, pass_fds=(self._lock, theirs.fileno()))  # noqa: S603 (our own)
            theirs.close()
        order = json.dumps({"words": list(words), "environment": dict(environment)})
        with suppress(BrokenPipeError):  # then there is nothing to receive either
            self._line.sendall(f"{order}\n".encode())
        return WarmCommand(self._line)


class WarmCommand:
    """A command that was started; it is waited for and ended as a `subprocess.Popen` is.

    Args:
        line: What leads to the process that forks.
    """

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self.pid = _received(line)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return _received(self._line)

    def terminate(self) -> None:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


def _received(line: socket.socket) -> int:
    """The next number; a signal whose handler raises finds all of it there still."""
    said = line.recv(_NUMBER.size, socket.MSG_WAITALL)
    if len(said) < _NUMBER.size:
        raise UserError(
            "the process that starts the commands was killed, perhaps for want of memory; call `katlit run` "
            "again, which goes on from here"
        )
    return int(_NUMBER.unpack(said)[0])


def _serve(number: int) -> dict[str, object] | None:
    """Fork for each order; returns it in the process that is to obey, None when there are no more."""
    line = socket.socket(fileno=number)
    with line, line.makefile(encoding="utf-8") as orders:
        for order in orders:
            if (pid := os.fork()) == 0:
                found: dict[str, object] = json.loads(order)
                return found
            with suppress(BrokenPipeError):  # `katlit run` was killed
                line.sendall(_NUMBER.pack(pid))
                _, status = os.waitpid(pid, 0)
                line.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
    return None


def _import_vllm() -> None:
    from katlit.engines.vllm.isolation import import_vllm

    import_vllm()


def _import(modules: Sequence[str]) -> None:
    """Import what most commands need; what cannot be imported is told by the command that needs it."""
    cli.find_own_classes()
    for name in modules:
        with suppress(Exception):
            if name == "vllm":
                _import_vllm()
            else:
                import_module(name)
    gc.freeze()  # the collector of a command need not look at all of it again, but for its end
    atexit.register(gc.unfreeze)


def _obey(order: dict[str, object], own: ModuleType) -> int:
    """Be the command, as if Python had been started with it; Lightning starts others by the same words."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]
    sys.argv = [str(cli.__file__), *order["words"]]  # type: ignore[misc]
    own.__spec__ = cli.__spec__
    return cli.main()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells the command as well, and that answers
    _import(sys.argv[2:])
    wanted = _serve(int(sys.argv[1]))
    sys.exit(0 if wanted is None else _obey(wanted, sys.modules["__main__"]))
