"""Starts the commands of a recipe, one at a time, even where `katlit run` was killed and its command not."""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from katlit.commands.overview import TRAINER_COMMANDS
from katlit.commands.recipe.warm import WarmCommand, WarmStart
from katlit.errors import UserError

_TERMINATED = 143  # what a shell reports after SIGTERM


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold the lock of a recipe's folder, which the commands that are started inherit.

    So it is free only when the last of them has ended. While it is held, SIGTERM ends the command as well.

    Raises:
        UserError: where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        _lock(file, folder)
        yield file
    finally:
        signal.signal(signal.SIGTERM, before)
        os.close(file)


def _lock(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"output: another `katlit run`, or a command of one, still works in {folder.parent}; "
            f"wait for it, or end it (`fuser {folder / 'lock'}` names it)"
        ) from error


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(_TERMINATED)


@dataclass(frozen=True, slots=True)
class Commands:
    """What commands are started with.

    Attributes:
        lock: An open file that each inherits, see `alone`.
        environment: Variables of theirs.
        warm: Starts those of ours sooner; None: each is a Python of its own.
    """

    lock: int
    environment: Mapping[str, str]
    warm: WarmStart | None = None

    def call(self, words: Sequence[str], launch: Sequence[str] = ()) -> None:
        """Print and run a command.

        Args:
            words: What follows `katlit`.
            launch: What starts it, such as `srun`; a process of ours where there is nothing.

        Raises:
            UserError: where it fails.
        """
        sys.stdout.write(f"\n$ {shown(words, launch)}\n")
        sys.stdout.flush()
        if failed := self.status(words, launch):
            raise UserError(
                f"the command above failed with status {failed}; mend it and call `katlit run` again, "
                "which goes on from here"
            )

    def status(self, words: Sequence[str], launch: Sequence[str] = ()) -> int:
        """Run `katlit` with these words; its exit status. It does not outlive an ordinary end of ours."""
        process = self._start(words, launch)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal has told it too
            raise
        except BaseException:
            process.terminate()
            process.wait()
            raise

    def _start(self, words: Sequence[str], launch: Sequence[str]) -> "subprocess.Popen[bytes] | WarmCommand":
        # A report alone is sooner written by a Python of its own.
        if self.warm is not None and not launch and (self.warm.is_running or words[0] in TRAINER_COMMANDS):
            return self.warm.start(words, self.environment)
        if launch and shutil.which(launch[0]) is None:
            raise UserError(f"launch: no program {launch[0]!r} here, which is to start `katlit {words[0]}`")
        program = [*launch, sys.executable, "-m", "katlit.cli", *words]
        return subprocess.Popen(program, env=self.environment, pass_fds=(self.lock,))  # noqa: S603 (our own)


def shown(words: Sequence[str], launch: Sequence[str] = ()) -> str:
    """A command as a shell takes it."""
    return shlex.join([*launch, "katlit", *words])
