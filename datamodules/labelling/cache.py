"""Labelled data is made once: the cache key is everything that went into it."""

import hashlib
import json
import logging
import pickle
import zlib
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules.records import Record, read_records, write_records
from katlit.errors import UserError
from katlit.model.card import RECORD
from katlit.model.hub import named_commit
from katlit.output import replace_file, replacing, require_writable
from katlit.rewards import Reward

logger = logging.getLogger(__name__)

_CHUNK = 2**20


def hash_model(directory: str) -> str:
    """Return the SHA-256 of a model: names, sizes and bytes of its files, but for what no program reads.

    A model on the hub is known by its name and commit, so that nobody needs its weights only for this.

    Args:
        directory: Its directory, or its name on the hub.
    """
    root = Path(directory)
    if not root.is_dir():
        return named_commit(directory)
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and not _is_beside(path.relative_to(root)):
            digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()


def _is_beside(path: Path) -> bool:
    """Whether a file of a model's directory only tells of it, or is hidden, as notes of a download are."""
    return path.suffix == ".md" or path.name == RECORD or any(part.startswith(".") for part in path.parts)


def fingerprint(settings: dict[str, Any], models: Sequence[str], prompts: Sequence[Prompt]) -> str:
    """Return the SHA-256 of all settings, the models (see `hash_model`) and the prompts."""
    inputs = {"settings": settings, "models": list(models), "prompts": list(prompts)}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def cache_file(folder: str, kind: str, key: str) -> Path:
    """Return where records of a fingerprint are kept."""
    return Path(folder) / f"{kind}-{key[:24]}.jsonl"


def cached_records(path: Path, build: Callable[[], list[Record]]) -> list[Record]:
    """Read records from the cache, or build and store them.

    Raises:
        UserError: if the folder cannot be written (before anything is built), or the file is damaged.
    """
    if path.is_file():
        logger.info("labels are read from %s", path)
        return read_cached(path)
    require_writable(path.parent, "cache_dir")  # hours of sampling must not end at a read-only folder
    records = build()
    if not path.is_file():  # else another run was quicker, and trains on what it wrote
        with replacing(path) as complete:
            write_records(complete, records)
            # Before the records appear, so that whoever is killed leaves none without checksums.
            replace_file(_checksum_file(path), "".join(f"{line}\n" for line in _checksums(complete)))
    return read_cached(path)


def read_cached(path: Path) -> list[Record]:
    """Read records that `cached_records` wrote.

    Raises:
        UserError: where a line is not what was written, naming it, or lines are missing.
    """
    file = _checksum_file(path)
    if file.is_file():  # else an earlier katlit wrote the records
        told, found = file.read_bytes().decode(errors="replace").split(), _checksums(path)
        pairs = zip_longest(told, found)
        damaged = next((number for number, (old, new) in enumerate(pairs, start=1) if old != new), None)
        if damaged is not None:
            raise UserError(
                f"{path}:{damaged}: damaged, this line is not what labelling wrote ({len(told)} lines, now "
                f"{len(found)}); delete {path.name} and label again, which asks no model for what it has "
                "answered; or if the change is yours, give the file as data.records_file"
            )
    return read_records(path)


def _checksum_file(path: Path) -> Path:
    """Where the checksums of a file of records are, one a line."""
    return path.with_suffix(".crc32")


def _checksums(path: Path) -> list[str]:
    with path.open("rb") as lines:
        return [f"{zlib.crc32(line):08x}" for line in lines]


def pickled(reward: Reward) -> bytes:
    """The reward with its settings, in one sequence of bytes.

    Raises:
        UserError: where it keeps what cannot be written down, such as an open file, a lock or a lambda.
    """
    try:
        return pickle.dumps(reward, protocol=4)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"data.init_args.accuracy: {type(reward).__name__} cannot be pickled ({error}), but the cache of "
            "the data is named by its settings; keep only settings as attributes, and open all else when it "
            "is first called"
        ) from error
