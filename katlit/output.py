"""Results on disk: can the folder be written, asked before the work; no file half written or overwritten."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

from katlit.errors import UserError


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
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def set_aside(paths: Iterable[Path], folder: Path) -> Path:
    """Move what an earlier run left into a new folder `aside-<n>` below `folder`; returns that."""
    number = next(n for n in count(1) if not (folder / f"aside-{n}").exists())
    aside = folder / f"aside-{number}"
    aside.mkdir()
    for path in paths:
        path.rename(aside / path.name)
    return aside
