"""Results on disk: can the folder be written, asked before the work; and no file half written."""

from pathlib import Path
from tempfile import TemporaryFile

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


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: under another name first, then moved into place."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)
