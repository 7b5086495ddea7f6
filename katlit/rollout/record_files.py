"""Records of rollouts on disk: one compressed file of JSON lines for each step and rank."""

import gzip
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from katlit.errors import UserError
from katlit.output import replace_file
from katlit.rollout.record import RolloutRecord

_NAME = re.compile(r"step-(\d+)\.rank-\d+\.jsonl\.gz")


def record_file(folder: Path, step: int, rank: int) -> Path:
    """Where the rollouts of a step are, those of one rank."""
    return folder / f"step-{step:08d}.rank-{rank}.jsonl.gz"


def record_files(folder: Path) -> list[tuple[int, Path]]:
    """The files of a folder with their steps, in order."""
    names = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*.jsonl.gz")]
    return sorted((int(name.group(1)), path) for name, path in names if name is not None)


def write_records(path: Path, records: Sequence[RolloutRecord]) -> None:
    """Write a file whole or not at all; the same records give the same bytes."""
    lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records)
    replace_file(path, gzip.compress(lines.encode(), mtime=0))


def read_records(folder: Path, step: int) -> list[RolloutRecord]:
    """The rollouts of a step, of all ranks.

    Raises:
        UserError: where there are none, or a file is damaged.
    """
    files = record_files(folder)
    found = [path for number, path in files if number == step]
    if not found:
        steps = sorted({number for number, _ in files})
        known = f"it has those of steps {steps[0]} to {steps[-1]}" if steps else "it has none"
        raise UserError(
            f"{folder}: no rollouts of step {step}; {known} (katlit.callbacks.rollout_log.RolloutLog writes "
            "them)"
        )
    return [record for path in found for record in _read(path)]


def _read(path: Path) -> list[RolloutRecord]:
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        records: list[RolloutRecord] = [json.loads(line) for line in lines]
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise UserError(f"{path}: not a file of rollouts ({error})") from error
    missing = {key for key in RolloutRecord.__required_keys__ for record in records if key not in record}
    if missing:
        raise UserError(f"{path}: its rollouts lack {', '.join(sorted(missing))}")
    return records
