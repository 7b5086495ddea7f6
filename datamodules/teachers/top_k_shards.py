"""What a teacher said of a data set, in files that are mapped into memory: shards of whole transcripts.

A shard is one safetensors file, `ids` [N, k] and `log_probs` [N, k + 1] of all its response tokens, with
their CRC32 in its head. It appears under its name when it is complete, so whoever writes them may be killed
at any time.
"""

import zlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from katlit.errors import UserError
from katlit.output import replacing
from katlit.teacher.scorer import TopK

CacheDtype = Literal["float16", "float32"]
_NAMES = ("ids", "log_probs")
_CRC32 = "crc32"  # of one after the other
_AGAIN = "delete it and write the cache again (katlit label)"


def plan_shards(rows: Sequence[int], shard_tokens: int) -> list[int]:
    """Divide transcripts among shards, in order; a shard is closed once it has `shard_tokens` rows.

    Args:
        rows: Response tokens of each transcript.
        shard_tokens: Least rows of a shard but the last.

    Returns:
        Of each shard the number of its last transcript plus 1.
    """
    ends, filled = [], 0
    for number, count in enumerate(rows, start=1):
        filled += count
        if filled >= shard_tokens or number == len(rows):
            ends.append(number)
            filled = 0
    return ends


def ids_dtype(vocabulary: int) -> type[np.unsignedinteger[Any]] | type[np.signedinteger[Any]]:
    """The smallest type that holds the tokens of a vocabulary, of those that everything can read."""
    return np.uint16 if vocabulary <= 2**16 else np.int32


def write_shard(path: Path, tops: Sequence[TopK], vocabulary: int, dtype: CacheDtype) -> None:
    """Write one shard; a reader sees all of it or none, whoever else writes it."""
    least = np.finfo(dtype).min  # in place of the logarithm of 0
    log_probs = np.concatenate([np.maximum(top.log_probs, least) for top in tops]).astype(dtype)
    ids = np.concatenate([top.ids for top in tops]).astype(ids_dtype(vocabulary))
    if ids.shape[-1] == vocabulary:
        log_probs[:, -1] = least  # nothing is left, which a scorer that subtracts cannot tell
    try:
        with replacing(path) as partial:
            save_file({"ids": ids, "log_probs": log_probs}, partial, {_CRC32: _crc32(ids, log_probs)})
    except FileNotFoundError:
        if not path.is_file():  # else another process has written it, and tidied up
            raise


def _crc32(*tensors: NDArray[Any]) -> str:
    found = 0
    for tensor in tensors:
        found = zlib.crc32(np.ascontiguousarray(tensor).data, found)
    return f"{found:08x}"


class TopKShards:
    """Reads rows of transcripts; the files are mapped when they are first needed.

    Args:
        paths: One for each shard.
        ends: As planned.
        rows: Response tokens of each transcript.
        k: Tokens of a row.

    Raises:
        UserError: where a shard is missing, or not what was planned.
    """

    def __init__(self, paths: Sequence[Path], ends: Sequence[int], rows: Sequence[int], k: int) -> None:
        self._paths = paths
        self._ends = ends
        self._rows = rows
        self._offsets: list[int] = []  # of each transcript in its shard
        for first, last in zip([0, *ends[:-1]], ends, strict=True):
            self._offsets += [0, *accumulate(rows[first:last])][:-1]
        self._open: dict[int, Any] = {}
        for number, path in enumerate(paths):
            last = ends[number] - 1
            self._check(path, self._offsets[last] + rows[last], k)

    @staticmethod
    def _check(path: Path, rows: int, k: int) -> None:
        if not path.is_file():
            raise UserError(f"{path}: this shard is missing; write the rest of the cache (katlit label)")
        try:
            with safe_open(path, "numpy") as file:
                found = [file.get_slice(name).get_shape() for name in _NAMES]
        except SafetensorError as error:
            raise UserError(f"{path}: no shard of a teacher's cache ({error}); {_AGAIN}") from error
        if found != [[rows, k], [rows, k + 1]]:
            raise UserError(f"{path}: has shapes {found}, where {rows} rows of {k} belong; {_AGAIN}")

    def verify(self) -> None:
        """Read all shards once, and compare each with the checksum in it.

        One without, which an earlier katlit wrote, is taken as it is.

        Raises:
            UserError: where one holds something else than was written.
        """
        for path in self._paths:
            with safe_open(path, "numpy") as file:
                told = (file.metadata() or {}).get(_CRC32)
                if told is not None and told != _crc32(*map(file.get_tensor, _NAMES)):
                    raise UserError(f"{path}: damaged, this shard is not what was written; {_AGAIN}")

    def read(self, transcript: int) -> TopK:
        """All rows of a transcript."""
        shard = bisect_right(self._ends, transcript)
        if shard not in self._open:
            self._open[shard] = safe_open(self._paths[shard], "numpy")
        start = self._offsets[transcript]
        return TopK(*(self._slice(shard, name, start, transcript) for name in _NAMES))

    def _slice(self, shard: int, name: str, start: int, transcript: int) -> NDArray[Any]:
        rows: NDArray[Any] = self._open[shard].get_slice(name)[start : start + self._rows[transcript]]
        return rows

    @property
    def bytes(self) -> int:
        """Size of all files, in bytes."""
        return sum(path.stat().st_size for path in self._paths)
