"""Results on disk: can the folder be written, asked before the work; no file half written or overwritten."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any
from uuid import uuid4

from katlit.errors import UserError, first_line

_LOCK = ".lock"  # in a scratch folder, held by the process that has made it
_FULL_BYTES = 2**20  # a disk with less is full


def require_writable(directory: str | Path, key: str) -> None:
    """Create the folder if need be and write a nameless file into it; a URI (`s3://…`) is left alone.

    Args:
        directory: The folder that results will go to.
        key: The setting that names the folder, for the message.

    Raises:
        UserError: where the folder cannot be created or written.
    """
    if "://" in str(directory):
        return
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(
            f"{key}: cannot write to {str(directory)!r} ({error.strerror}); "
            "choose a folder that can be written"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that is to appear whole or not at all; it is then moved into place.

    Several processes may write the same file at once: each has a name of its own, `.<name>.<random>.partial`.
    Who may read it follows from the umask, also where a library makes its files for their owner alone.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The objects in a file that lines are appended to, but for what a killed writer left of its last one."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


@contextmanager
def replacing_directory(directory: str | Path, mark: str) -> Iterator[Path]:
    """An empty folder to be filled, that takes the place of `directory` once it is complete.

    Who may read its files follows from the umask, also where a library makes them for their owner alone. What
    a process leaves that is killed meanwhile, `after_a_kill` puts right; so does the next one that writes.

    Args:
        directory: Where to. One that holds a file named `mark` is replaced.
        mark: Tells our own kind of directory from others.

    Raises:
        UserError: where the directory holds something else.
    """
    target = Path(directory).absolute()
    after_a_kill(target, [mark])
    replaced = target.exists() and any(target.iterdir())
    if replaced and not (target / mark).is_file():
        raise UserError(f"export: {str(directory)!r} holds other files, no {mark}; choose another place")
    with beside(target) as new:
        yield new
        _open_to_all(new)
        if replaced:
            target.rename(_replaced(target))
        new.rename(target)
    if replaced:
        shutil.rmtree(_replaced(target))


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """An empty folder of the name of a directory, on the same disk; it is removed unless it is moved away."""
    with scratch_folder(target.parent, f".{target.name}.") as scratch:
        (scratch / target.name).mkdir()
        yield scratch / target.name


def after_a_kill(directory: str | Path, marks: Iterable[str]) -> None:
    """Put right what a process has left that was killed while it replaced a directory.

    What was half written goes. What was moved out of the way comes back, unless the new one is in its place.

    Args:
        directory: What was replaced.
        marks: Names of files, one of which a complete one has.
    """
    target = Path(directory).absolute()
    _remove_left_over(target.parent, f".{target.name}.")
    replaced = _replaced(target)
    if not replaced.is_dir():
        return
    if any((target / mark).is_file() for mark in marks):
        shutil.rmtree(replaced)
    elif not target.is_dir() or not any(target.iterdir()):
        replaced.rename(target)


def _replaced(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def _open_to_all(folder: Path) -> None:
    """Give the files below a folder the rights that the umask left the folder, but for running them."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def set_aside(paths: Iterable[Path], folder: Path) -> Path:
    """Move what an earlier run left into a new folder `aside-<n>` below `folder`; returns that."""
    number = next(n for n in count(1) if not (folder / f"aside-{n}").exists())
    aside = folder / f"aside-{number}"
    aside.mkdir()
    for path in paths:
        path.rename(aside / path.name)
    return aside


@contextmanager
def naming_disk_faults(folder: Path, key: str) -> Iterator[None]:
    """What the disk refuses while a folder is written to, as a line that names folder and setting.

    Libraries hide it in errors of their own, so a full disk is looked for too.

    Args:
        folder: The folder; it exists.
        key: The setting that names it.

    Raises:
        UserError: where the disk is full, or the system refuses to write.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.errno is not None else None
        # A half of what was written may be gone again, and its room be free.
        full = os.strerror(errno.ENOSPC) in str(error) or shutil.disk_usage(folder).free < _FULL_BYTES
        if reason is None and full:
            reason = "the disk is full"
        if reason is None:
            raise
        raise UserError(
            f"{key}: writing to {str(folder)!r} failed ({reason}: {first_line(error)}); make room there, or "
            "choose another folder"
        ) from error


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder that is removed at the end, as are those that processes left which were killed.

    Args:
        parent: Where it is made; created if need be.
        prefix: How its name begins.

    Raises:
        UserError: where it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(parent, prefix)
        temporary = TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"{str(parent)!r}: no folder {prefix}… can be made there ({error.strerror}); make room, or "
            "choose another place"
        ) from error
    with temporary as folder, (Path(folder) / f"{_LOCK}-new").open("wb") as lock:
        with suppress(OSError):  # where files cannot be locked, what a killed process leaves there stays
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Path(lock.name).rename(Path(folder) / _LOCK)  # so others see it held, never free
        yield Path(folder)


def _remove_left_over(parent: Path, prefix: str) -> None:
    for lock in parent.glob(f"{prefix}*/{_LOCK}"):
        # An error means that its process lives, or that another one has just removed it.
        with suppress(OSError), lock.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
