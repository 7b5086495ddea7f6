"""A teacher that is read from disk: its k likeliest tokens at each place, written once (recipe §3)."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from katlit.datamodules.teachers.top_k_shards import CacheDtype, TopKShards, plan_shards, write_shard
from katlit.errors import UserError
from katlit.model.fingerprint import sample_model
from katlit.model.pretrained import load_config, load_tokenizer
from katlit.output import replace_file
from katlit.teacher.by_mode import ByMode, Teacher, by_mode, setting_of
from katlit.teacher.scorer import TeacherScorer, TopK, Transcript

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_DIGITS = 24
_SCORER = "data.cached_teacher.scorer"
_CHECKED = ("teacher", "tokenizer", "k", "dtype", "data")


class CachedTeacher:
    """Top-k log-probabilities of a teacher for each response token of a data set, and what the rest has.

    Belongs to one teacher and one data set, which it records and checks: the teacher (its name and
    commit, or for a directory a hash of its weights), its tokenizer, k, the type, and the very tokens that it
    read. It knows nothing of the student, so several may be distilled from it.

    Args:
        directory: Where the shards are, or will be; of two teachers each has a folder in it.
        k: Likeliest tokens kept of each distribution.
        dtype: Type of the log-probabilities on disk.
        shard_tokens: Response tokens of a shard; at most one shard is lost where writing is killed.
        scorer: Who asks the teacher; not needed where the cache is complete. Two are a mapping with the keys
            `think_on` and `think_off`, one for each teacher.
    """

    def __init__(
        self,
        directory: str,
        k: int = 64,
        dtype: CacheDtype = "float16",
        shard_tokens: int = 2**16,
        scorer: ByMode[TeacherScorer] | None = None,
    ) -> None:
        if k < 1 or shard_tokens < 1:
            raise UserError(f"cached_teacher: k {k} and shard_tokens {shard_tokens} must be at least 1")
        self.directory = Path(directory)
        self.k = k
        self.dtype: CacheDtype = dtype
        self.shard_tokens = shard_tokens
        self.scorer = scorer
        self._shards: TopKShards | None = None
        self._starts: list[int] = []

    def of(self, teacher: Teacher) -> "CachedTeacher":
        """Return the cache of one teacher: this one, or of two teachers one in a folder named after the mode.

        Raises:
            UserError: where scorers are not named by mode, or one teacher has two.
        """
        scorers = None if self.scorer is None else by_mode(self.scorer, _SCORER)
        if len(teacher.modes) == 1:
            (mode,) = teacher.modes
            folder, scorer = (
                str(self.directory / setting_of(mode)),
                None if scorers is None else scorers[mode],
            )
            return CachedTeacher(folder, self.k, self.dtype, self.shard_tokens, scorer)
        if isinstance(self.scorer, dict):
            raise UserError(
                f"{_SCORER}: two are given, but there is one teacher; give one, or name two teachers"
            )
        return self

    def write(self, teacher: str, transcripts: Sequence[Transcript]) -> None:
        """Write what is missing, and verify what is there; the scorer is closed on any way out.

        Several processes may write the same cache at once, which costs them time only.

        Raises:
            UserError: where the directory holds another cache, or cannot be written, there is no scorer, or a
                shard is damaged.
        """
        manifest = self._manifest(teacher, transcripts)
        ends = manifest["shards"]
        missing = [number for number, path in enumerate(self._paths(manifest)) if not path.is_file()]
        if missing:
            if not isinstance(self.scorer, TeacherScorer):
                raise UserError(
                    f"{self.directory}: {len(missing)} of {len(ends)} shards are missing; give "
                    "cached_teacher a scorer to write them"
                )
            self._save(manifest)
            try:
                self.scorer.start(teacher)
                for number in missing:
                    self._write_shard(number, manifest, transcripts, self.scorer)
            finally:
                self.scorer.close()
            for left in self.directory.glob("*.partial"):  # by processes that were killed
                left.unlink(missing_ok=True)
        shards = self._open(manifest, transcripts)
        shards.verify()  # by one process of all, before they read
        self._report(shards, transcripts)

    def _write_shard(
        self, number: int, manifest: dict[str, Any], transcripts: Sequence[Transcript], scorer: TeacherScorer
    ) -> None:
        path, ends = self._paths(manifest)[number], manifest["shards"]
        if path.is_file():  # another process was quicker
            return
        tops = scorer.score(transcripts[[0, *ends][number] : ends[number]], self.k)
        write_shard(path, tops, manifest["vocabulary"], self.dtype)
        logger.info("teacher's cache: %d of %d shards", number + 1, len(ends))

    def open(self, teacher: str, transcripts: Sequence[Transcript]) -> None:
        """Map a complete cache, on every rank.

        Raises:
            UserError: where there is none, or it belongs to something else; names all that differs.
        """
        if not (self.directory / _MANIFEST).is_file():
            raise UserError(f"{self.directory}: no teacher's cache; write it first (katlit label)")
        self._shards = self._open(self._manifest(teacher, transcripts), transcripts)
        self._starts = [transcript.start for transcript in transcripts]

    def read(self, transcript: int, tokens: Sequence[int]) -> TopK:
        """The distributions of some tokens of a transcript's response.

        Args:
            transcript: Its number.
            tokens: Their places in the transcript.
        """
        if self._shards is None:
            raise RuntimeError("CachedTeacher: not opened")
        rows = np.array(tokens, dtype=np.int64) - self._starts[transcript]
        return TopK(*(part[rows] for part in self._shards.read(transcript)))

    def _paths(self, manifest: dict[str, Any]) -> list[Path]:
        return [self.directory / f"{number:05d}.safetensors" for number in range(len(manifest["shards"]))]

    def _open(self, manifest: dict[str, Any], transcripts: Sequence[Transcript]) -> TopKShards:
        rows = [transcript.rows for transcript in transcripts]
        return TopKShards(self._paths(manifest), manifest["shards"], rows, self.k)

    def _manifest(self, teacher: str, transcripts: Sequence[Transcript]) -> dict[str, Any]:
        """What the directory says, checked; else what it is going to say."""
        wanted = self._describe(teacher, transcripts)
        path = self.directory / _MANIFEST
        if not path.is_file():
            return wanted
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            differing = [f"{name} {found[name]!r}, not {wanted[name]!r}" for name in _CHECKED
                         if found[name] != wanted[name]]  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a manifest of ours ({error}); delete {self.directory}") from error
        if differing:
            raise UserError(
                f"{self.directory}: this teacher's cache has {'; '.join(differing)}; "
                "name another cached_teacher.directory, or delete it"
            )
        return wanted | {"shards": found["shards"]}

    def _describe(self, teacher: str, transcripts: Sequence[Transcript]) -> dict[str, Any]:
        vocabulary = int(load_config(teacher, "data.teacher").get_text_config().vocab_size)
        if self.k > vocabulary:
            raise UserError(f"cached_teacher.k: {self.k}, but the teacher has {vocabulary} tokens")
        tokenizer: Any = load_tokenizer(teacher, "data.teacher")
        return {
            "teacher": sample_model(teacher),
            "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()[:_DIGITS],
            "k": self.k,
            "dtype": self.dtype,
            "data": _fingerprint(transcripts),
            "vocabulary": vocabulary,
            "shards": plan_shards([transcript.rows for transcript in transcripts], self.shard_tokens),
        }

    def _save(self, manifest: dict[str, Any]) -> None:
        path = self.directory / _MANIFEST
        self.directory.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(manifest, indent=1))

    def _report(self, shards: TopKShards, transcripts: Sequence[Transcript]) -> None:
        tokens = sum(transcript.rows for transcript in transcripts)
        logger.info(
            "teacher's cache: %s, %d response tokens, k %d, %.1f bytes a token, %.1f MiB",
            self.directory, tokens, self.k, shards.bytes / tokens, shards.bytes / 2**20,
        )  # fmt: skip


def _fingerprint(transcripts: Sequence[Transcript]) -> str:
    """Of the very tokens that the teacher reads, and where the responses start."""
    digest = hashlib.sha256()
    for token_ids, start in transcripts:
        digest.update(np.array([len(token_ids), start, *token_ids], dtype=np.int64).tobytes())
    return digest.hexdigest()[:_DIGITS]
