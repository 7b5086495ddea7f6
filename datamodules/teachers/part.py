"""A teacher's part of a data set: the records that it wrote, in its tokens beside the student's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from katlit.batch import TeacherTokens
from katlit.datamodules.dialects.alignment import pair_targets
from katlit.datamodules.dialects.base import Dialect
from katlit.datamodules.dialects.ours import KatlitDialect
from katlit.datamodules.records import Record
from katlit.datamodules.teachers.cached_teacher import CachedTeacher
from katlit.errors import UserError
from katlit.packing import Document, fill_rows
from katlit.progress import reported
from katlit.teacher.by_mode import Teacher
from katlit.teacher.scorer import Transcript


@dataclass(frozen=True, slots=True)
class DistillDocument:
    """One record on both sides; `pairs` are (student, teacher) indices of corresponding target tokens."""

    student: Document
    teacher: Transcript
    pairs: list[tuple[int, int]]


def encode_student(record: Record, student: KatlitDialect) -> Document:
    """Encode a record for the student.

    The judge is read, not trained: whether to think is learnt in stage 2 (our choice).
    """
    prompt = _encode_prompt(record, student)
    reply = [token for piece in student.lay_out(record.response()) for token in piece.token_ids]
    return Document(prompt + reply, [False] * len(prompt) + [True] * len(reply))


def _encode_prompt(record: Record, dialect: Dialect) -> list[int]:
    """Encode what a record's response goes on from: its mode is forced, or its judge was written."""
    if record.forced:
        return dialect.encode_prompt(record.messages, record.regime.value, record.tools)
    return dialect.encode_judged(record.messages, record.response(), record.tools)


def encode_pair(record: Record, student: KatlitDialect, teacher: Dialect) -> DistillDocument:
    """Encode a record for student and teacher, each in its dialect; a rewritten one has no pairs."""
    response = record.response()
    prompt, teacher_prompt = _encode_prompt(record, student), _encode_prompt(record, teacher)
    pieces = student.lay_out(response)
    teacher_pieces = teacher.lay_out(response)
    reply = [token for piece in pieces for token in piece.token_ids]
    return DistillDocument(
        Document(prompt + reply, [False] * len(prompt) + [True] * len(reply)),
        Transcript(
            teacher_prompt + [token for piece in teacher_pieces for token in piece.token_ids],
            len(teacher_prompt),
        ),
        []
        if record.rewritten
        else [
            (len(prompt) + left, len(teacher_prompt) + right)
            for left, right in pair_targets(pieces, teacher_pieces)
        ],
    )


class TeacherPart:
    """The records of some regimes, which one teacher wrote.

    Args:
        teacher: The teacher, and the regimes of its records.
        cache: What it says of them, where that is on disk.
    """

    def __init__(self, teacher: Teacher, cache: CachedTeacher | None = None) -> None:
        self.teacher = teacher
        self.cache = cache
        self.documents: dict[int, DistillDocument] = {}  # by the number of the record in the data set

    def encode(self, records: Sequence[Record], student: KatlitDialect, dialect: Dialect) -> None:
        """Encode the records that are the teacher's.

        Raises:
            UserError: where none is.
        """
        self._pad_id = dialect.pad_id
        dialect.check((r.messages, r.tools) for r in records if r.regime in self.teacher.modes)
        self.documents = {
            number: encode_pair(record, student, dialect)
            for number, record in enumerate(reported(records, "records encoded"))
            if record.regime in self.teacher.modes
        }
        self._paired = {number for number, document in self.documents.items() if document.pairs}
        if records and not self.documents:
            (regime,) = self.teacher.modes
            raise UserError(
                f"{self.teacher.key}: {self.teacher.name!r} has nothing to teach: none of the {len(records)} "
                f"records is think-{regime.value}; name one teacher only, or label more prompts"
            )

    def write_cache(self) -> None:
        """Ask the teacher for what its cache still lacks."""
        if self.cache is not None:
            self.cache.write(self.teacher.name, self._transcripts())

    def open_cache(self) -> None:
        """Map the cache, on every rank."""
        if self.cache is not None:
            self.cache.open(self.teacher.name, self._transcripts())
            self._transcript = {number: place for place, number in enumerate(self.documents)}

    def _transcripts(self) -> list[Transcript]:
        return [document.teacher for document in self.documents.values()]

    def tokens(self, rows: Sequence[Sequence[int]], starts: Mapping[int, int]) -> TeacherTokens:
        """Lay out what the teacher reads of a batch.

        A row of the teacher holds its documents of a row of the student's, but for those without pairs; rows
        without any are left out, but for one.

        Args:
            rows: Numbers of the records in each row of the student's.
            starts: Starts of each record there, where it starts in the flattened rows.
        """
        own = [[number for number in row if number in self._paired] for row in rows]
        own = [row for row in own if row] or [[]]
        input_ids, position_ids = fill_rows(
            [[self.documents[number].teacher.token_ids for number in row] for row in own], self._pad_id
        )
        pairs: list[tuple[int, int]] = []
        for place, row in enumerate(own):
            right = place * input_ids.shape[1]
            for number in row:
                document = self.documents[number]
                pairs += [(starts[number] + student, right + teacher) for student, teacher in document.pairs]
                right += len(document.teacher.token_ids)
        aligned = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        tokens: TeacherTokens = {
            "teacher_input_ids": input_ids,
            "teacher_position_ids": position_ids,
            "student_targets": aligned[:, 0].contiguous(),
            "teacher_targets": aligned[:, 1].contiguous(),
        }
        if self.cache is not None:
            top = self._read(self.cache, [number for row in own for number in row])
            tokens["teacher_top_ids"], tokens["teacher_top_log_probs"] = top
        return tokens

    def _read(self, cache: CachedTeacher, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the cache says of the paired targets of these records, in their order."""
        ids = [np.empty((0, cache.k), np.int32)]
        log_probs = [np.empty((0, cache.k + 1), np.float32)]
        for number in numbers:
            places = [place for _, place in self.documents[number].pairs]
            top = cache.read(self._transcript[number], places)
            ids.append(top.ids.astype(np.int32))
            log_probs.append(top.log_probs.astype(np.float32))
        return torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(log_probs))
