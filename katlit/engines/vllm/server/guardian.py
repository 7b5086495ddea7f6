"""Runs a command, and ends it with all its children when whoever started this closes standard input, or dies.

Started by its path, as the leader of a process group of its own; it imports nothing but the standard library.
Its arguments are the seconds that the command may take to end by itself, two folders to remove where whoever
started this has died, and the command.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

_SETTLE = 0.5  # seconds for Python's resource trackers, which remove shared memory once all else has ended


def main() -> None:
    """Wait for the end of the command or of standard input, whichever comes first."""
    grace, folders, command = float(sys.argv[1]), sys.argv[2:4], sys.argv[4:]
    starter = os.getppid()
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 (the caller's own command)

    def end() -> None:
        if os.getppid() != starter:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)  # children that are left, and this process

    def end_with_the_server() -> None:
        server.wait()
        time.sleep(_SETTLE)
        end()

    threading.Thread(target=end_with_the_server, daemon=True).start()
    sys.stdin.buffer.read()
    server.terminate()
    threading.Event().wait(grace)
    end()


if __name__ == "__main__":
    main()
