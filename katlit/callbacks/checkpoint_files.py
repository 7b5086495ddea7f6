"""The files of checkpoints: which there are, which are whole, and how they come and go."""

import json
import logging
import os
import re
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from typing_extensions import override

from katlit.errors import UserError
from katlit.output import replacing

logger = logging.getLogger(__name__)

PARTIAL = ".partial"

_NAME = re.compile(r"step-\d+\.ckpt")
_SIZES = "sizes.json"  # in a folder: its files and their bytes
# What reading an archive raises beside its own error, where a bit of its directory is another.
_NO_ARCHIVE = (EOFError, OSError, ValueError, RuntimeError, zlib.error, struct.error)


class StreamedCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to its file tensor by tensor.

    Lightning's own makes an image of the whole file in memory first, as large as weights and optimizer
    state together.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # By its path torch would hide what the system says. Other callbacks save by this too, over files.
        with replacing(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)


def checkpoints(directory: str | Path) -> list[Path]:
    """The complete checkpoints of a directory, oldest first."""
    found = [path for path in Path(directory).glob("step-*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)


def newest_whole(folders: Sequence[Path], *, required: bool) -> Path | None:
    """The newest checkpoint that is not damaged; of each that is, a line says so.

    Raises:
        UserError: where there is none, but one is required, and where all are damaged.
    """
    found = [path for folder in folders for path in checkpoints(folder)]
    for path in reversed(found):
        why = damage(path)
        if why is None:
            return path
        logger.warning(
            "%s is damaged (%s); the checkpoint before is taken instead, if there is one", path, why
        )
    places = ", ".join(map(str, folders))
    if found:
        raise UserError(
            f"ckpt_path: all {len(found)} checkpoints in {places} are damaged; leave it out to start afresh"
        )
    if required:
        raise UserError(f"ckpt_path: last, but no checkpoint is in {places}; leave it out, or use auto")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where nothing is seen.

    The checksums of a file are read. Of a folder, which may hold terabytes and is looked at by each process,
    only the sizes are, and whether what torch wrote has its end.
    """
    if path.is_file():
        return _damage_of_archive(path)
    if not any(path.iterdir()):
        return "it is empty"
    sizes: Any = {}
    if (path / _SIZES).is_file():
        try:
            sizes = json.loads((path / _SIZES).read_bytes())
        except ValueError:
            sizes = None
        if not isinstance(sizes, dict):
            return f"{_SIZES} is cut off"
    for name, size in sizes.items():
        part = path / name
        if not part.is_file() or part.stat().st_size != size:
            return f"{name} is not the {size} bytes that were written"
    archives = [part for pattern in ("*.pt", "*.ckpt") for part in path.rglob(pattern)]
    broken = [part for part in archives if not is_zipfile(part)]
    return f"{broken[0].name} is cut off" if broken else None


def _damage_of_archive(path: Path) -> str | None:
    try:
        with ZipFile(path) as archive:
            wrong = archive.testzip()
    except (BadZipFile, *_NO_ARCHIVE) as error:
        return f"{error}".lower()
    return None if wrong is None else f"{wrong} does not have its checksum"


def keep_sizes(folder: Path) -> None:
    """Note the sizes of all files of a folder, for `damage`."""
    files = [part for part in folder.rglob("*") if part.is_file()]
    sizes = {str(part.relative_to(folder)): part.stat().st_size for part in files}
    (folder / _SIZES).write_text(json.dumps(sizes), encoding="utf-8")


def step_of(path: Path) -> int:
    """The optimizer steps in the name of a checkpoint."""
    return int(path.name.removeprefix("step-").removesuffix(".ckpt"))


def remove(path: Path) -> None:
    """Remove a file or folder; it loses its name first, so that a kill leaves no half of it."""
    if not path.name.endswith(PARTIAL):
        path = path.rename(path.with_name(path.name + PARTIAL))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def to_disk(path: Path) -> None:
    """Have the system write what it holds back, so that a rename cannot be on disk before its content."""
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
