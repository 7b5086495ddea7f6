"""The process that has done all imports and forks for each command of `katlit run`, see `WarmStart`."""

import atexit
import gc
import json
import os
import signal
import socket
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any

from katlit import cli
from katlit.commands.recipe.warm import NUMBER, SIGNALS


def _serve(number: int, handlers: Mapping[signal.Signals, Any]) -> dict[str, Any] | None:
    """Fork for each order; returns it in the process that is to obey, None when there are no more."""
    line = socket.socket(fileno=number)
    # Whoever ordered may have been killed.
    with suppress(ConnectionError), line, line.makefile(encoding="utf-8") as orders:
        line.sendall(NUMBER.pack(os.getpid()))
        for order in orders:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the command answers them
            if (pid := os.fork()) == 0:
                for each, handler in handlers.items():
                    signal.signal(each, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            if pid == 0:
                return dict(json.loads(order))
            line.sendall(NUMBER.pack(pid))
            _, status = os.waitpid(pid, 0)
            line.sendall(NUMBER.pack(os.waitstatus_to_exitcode(status)))
    return None


def _import(names: Sequence[str]) -> None:
    """Import all; what cannot be imported is told by the command that needs it."""
    for name in names:
        with suppress(Exception, SystemExit):
            found = resolve_name(name)
            if ":" in name:
                found()
    # What Python 3.12 and later warn of: idle threads of OpenBLAS, which is prepared for forks.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    gc.freeze()  # the collector of a command need not look at all of it again, but for its end
    atexit.register(gc.unfreeze)


def _main(number: int, names: Sequence[str]) -> int:
    """Import, then fork; in a process that was forked be the command, as if Python were started with it."""
    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    for each in SIGNALS:  # a terminal or a scheduler tells the command as well, and that answers
        signal.signal(each, signal.SIG_IGN)
    path = list(sys.path)
    cli.find_own_classes()
    _import(names)
    order = _serve(number, handlers)
    if order is None:
        return 0
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = [str(cli.__file__), *order["words"]]
    sys.modules["__main__"].__spec__ = cli.__spec__  # by which Lightning starts the other processes
    return cli.main()


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), sys.argv[2:]))
