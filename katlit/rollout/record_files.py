"""Records of rollouts on disk: one compressed file of JSON lines for each step and rank."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from katlit.errors import UserError
from katlit.output import replace_file
from katlit.rollout.record import RolloutRecord
from katlit.text.printable import escaped

# Bytes of a file's text, some 70 million tokens; a small file can swell to more than memory.
LARGEST = 1 << 30
_RECORD = TypeAdapter(RolloutRecord)
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
            f"{folder}: no rollouts of step {step}; {known} (katlit.callbacks.RolloutLog writes them)"
        )
    return [record for path in found for record in _read(path)]


def _read(path: Path) -> list[RolloutRecord]:
    try:
        return [_record(line, f"{path}:{number}") for number, line in enumerate(_lines(path), start=1)]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a file of rollouts ({error})") from error


def _lines(path: Path) -> Iterator[bytes]:
    left = LARGEST
    with gzip.open(path) as file:
        while line := file.readline(left + 1):
            left -= len(line)
            if left < 0:
                raise UserError(f"{path}: holds more than {LARGEST >> 20} MiB, as no step's rollouts do")
            yield line


def _record(line: bytes, where: str) -> RolloutRecord:
    try:
        record = _RECORD.validate_json(line, strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = "".join(f"{part}: " for part in fault["loc"])
        raise _damaged(where, f"{field}{fault['msg']}") from error
    number = len(record["token_ids"])
    if record["judge_tokens"] > number:
        raise _damaged(where, f"judge_tokens: {record['judge_tokens']} of {number} tokens")
    if record["log_probs"] is not None and len(record["log_probs"]) != number:
        raise _damaged(where, f"log_probs: {len(record['log_probs'])} for {number} tokens")
    return record


def _damaged(where: str, fault: str) -> UserError:
    return UserError(
        f"{where}: no record of a rollout ({escaped(fault)}); the file is damaged, or was written by another "
        "version of katlit"
    )
