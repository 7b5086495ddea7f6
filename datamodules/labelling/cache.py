"""Labelled data is made once: the cache key is everything that went into it."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules.records import Record, read_records, write_records
from katlit.output import require_writable

logger = logging.getLogger(__name__)

_CHUNK = 2**20
_SAMPLES = 64


def hash_model(directory: str) -> str:
    """Return the SHA-256 of a model directory: names, sizes and bytes of its files.

    A model that is named rather than stored here is identified by its name.
    """
    root = Path(directory)
    if not root.is_dir():
        return directory
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()


def sample_model(directory: str) -> str:
    """Return a hash of a model directory's configuration and of at most 64 MiB of each file of its weights.

    What every rank has to check must be quick; two trainings differ in nearly every number, so parts that are
    evenly spread tell them apart. A model that is named rather than stored here is identified by its name.
    """
    root = Path(directory)
    if not root.is_dir():
        return directory
    digest = hashlib.sha256()
    weights = [path for pattern in ("*.safetensors", "*.bin") for path in root.glob(pattern)]
    for path in [root / "config.json", *sorted(weights)]:
        size = path.stat().st_size if path.is_file() else 0
        digest.update(f"{path.name} {size}\n".encode())
        step = max(_CHUNK, size // _SAMPLES)
        for start in range(0, size, step):
            with path.open("rb") as file:
                file.seek(start)
                digest.update(file.read(_CHUNK))
    return digest.hexdigest()[:24]


def fingerprint(settings: dict[str, Any], models: Sequence[str], prompts: Sequence[Prompt]) -> str:
    """Return the SHA-256 of all settings, the models' contents and the prompts."""
    inputs = {
        "settings": settings,
        "models": [hash_model(model) for model in models],
        "prompts": list(prompts),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def cache_file(folder: str, kind: str, key: str) -> Path:
    """Return where records of a fingerprint are kept."""
    return Path(folder) / f"{kind}-{key[:24]}.jsonl"


def cached_records(path: Path, build: Callable[[], list[Record]]) -> list[Record]:
    """Read records from the cache, or build and store them.

    Raises:
        UserError: if the folder cannot be written (before anything is built).
    """
    if path.is_file():
        logger.info("labels: read from %s, nothing is sampled", path)
        return read_records(path)
    require_writable(path.parent, "cache_dir")  # hours of sampling must not end at a read-only folder
    records = build()
    if not path.is_file():  # else another run was quicker, and trains on what it wrote
        write_records(path, records)
    return read_records(path)
