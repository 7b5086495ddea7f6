"""Whether a folder can be written, asked before the work instead of after it."""

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
