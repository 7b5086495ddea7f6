"""By what a model is known again, whatever its directory is called."""

import hashlib
from pathlib import Path

from katlit.model.hub import named_commit

_CHUNK = 2**20
_SAMPLES = 64


def sample_model(directory: str) -> str:
    """Return a hash of a model directory's configuration and of at most 64 MiB of each file of its weights.

    What every rank has to check must be quick; two trainings differ in nearly every number, so parts that are
    evenly spread tell them apart. A model on the hub is known by its name and commit.
    """
    root = Path(directory)
    if not root.is_dir():
        return named_commit(directory)
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
