"""Stage 1: dual-regime data from one teacher or two, and the teachers' tokens beside the student's."""

import logging
from itertools import accumulate
from typing import cast

from katlit.batch import DistillBatch
from katlit.datamodules.base import BatchSettings, LabelledData
from katlit.datamodules.dialects.dialects import BALLOT_TEMPLATE
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.dialects.ours import KatlitDialect
from katlit.datamodules.labelling.base import Labeller
from katlit.datamodules.records import Record, read_records
from katlit.datamodules.sources.base import PromptSource
from katlit.datamodules.student import student_protocol
from katlit.datamodules.teachers.cached_teacher import CachedTeacher
from katlit.datamodules.teachers.part import TeacherPart, encode_student
from katlit.datamodules.teachers.thinking import TeacherThinking
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.packing import Document, collate
from katlit.rewards import Reward
from katlit.teacher.by_mode import ByMode, is_text_only, teachers_of

logger = logging.getLogger(__name__)

_SAMPLING = SamplingParameters()
_BATCHES = BatchSettings()
_THINKING = TeacherThinking()


class DistillData(LabelledData[DistillBatch]):
    """Dual-regime records labelled by a teacher, tokenized for student and teacher, with aligned targets.

    With two teachers (recipe §2) the first one votes on the queries and answers those that need no thinking,
    the second one those that do; the engine is started with one after the other. Of a file of records the
    regime says who wrote which.

    Args:
        student_tokenizer: Directory or name of the student's tokenizer; markers are added where missing.
        teacher: Directory of the teacher: a model of ours, or any chat model with a template. Two are a
            mapping: `think_on` names the teacher of the think-on records, `think_off` that of the others.
            Without one, or with one that only an endpoint has (`endpoint:NAME`), records are for a stage
            whose `kd` is none.
        prompts: Queries to label; not needed with `records_file`.
        engine: Engine that samples the teachers; closed after labelling.
        accuracy: Scorer that verifies the teacher's answers; each prompt's own verifier if not given.
        labeller: Chooses modes and responses, such as `DualRegime`; not needed with `records_file`.
        sampling: How the teachers are sampled.
        ballot_tokens: Longest ballot of the teacher, in tokens.
        ballot_template: Question put to a teacher that does not speak our protocol; holds `{question}`.
        thinking: How models that do not speak our protocol are made to think, or not to; of two teachers each
            may have settings of its own, `think_on` and `think_off`.
        batches: Tokens of a batch, packing, validation share.
        records_file: Use these records (JSON Lines) instead of labelling.
        cache_dir: Folder of the labelled records.
        cached_teacher: What the teacher says of the records, written once, for a stage whose
            `teacher_placement` is cached; of two teachers each has a folder of its own in it.
    """

    kind = "distill"

    def __init__(
        self,
        student_tokenizer: str,
        teacher: ByMode[str] | None = None,
        prompts: PromptSource | None = None,
        engine: RolloutEngine | None = None,
        accuracy: Reward | None = None,
        labeller: Labeller | None = None,
        sampling: SamplingParameters = _SAMPLING,
        ballot_tokens: int = 64,
        ballot_template: str = BALLOT_TEMPLATE,
        thinking: TeacherThinking = _THINKING,
        batches: BatchSettings = _BATCHES,
        records_file: str | None = None,
        cache_dir: str = "outputs/cache",
        cached_teacher: CachedTeacher | None = None,
    ) -> None:
        super().__init__(
            prompts, engine, accuracy, labeller, sampling, ballot_tokens, ballot_template,
            thinking.of_both(), batches, records_file, cache_dir,
        )  # fmt: skip
        self.student_tokenizer = student_tokenizer
        teachers = teachers_of(teacher, "data.teacher")
        self._thinking_by_teacher = thinking.by_teacher(teachers)
        if is_text_only(teachers):  # then the stage has no use for what it reads
            teachers = []
        self._parts = [
            TeacherPart(one, None if cached_teacher is None else cached_teacher.of(one)) for one in teachers
        ]
        self.unpaired_share = 0.0  # of the student's targets, known after `setup`

    def thinking_of(self, source: str) -> ThinkingSettings:
        """Return the teacher's own settings, if it has any."""
        return self._thinking_by_teacher.get(source, super().thinking_of(source))

    def prepare_data(self) -> None:
        """Label, then ask the teachers for what a cache of them still lacks."""
        super().prepare_data()
        if any(part.cache is not None for part in self._parts):
            self._encode(read_records(self.records_path()))
            for part in self._parts:
                part.write_cache()

    def encode(self, records: list[Record]) -> list[Document]:
        """Encode both sides and pair their targets."""
        documents = self._encode(records)
        for part in self._parts:
            part.open_cache()
        self._students = documents
        if self._parts:
            targets = sum(sum(document.loss_mask) for document in documents)
            pairs = sum(len(document.pairs) for part in self._parts for document in part.documents.values())
            self.unpaired_share = 1.0 - pairs / targets
            logger.info(
                "distillation: %.2f %% of %d targets are unpaired", 100 * self.unpaired_share, targets
            )
        return documents

    def _encode(self, records: list[Record]) -> list[Document]:
        student = KatlitDialect(
            student_protocol(self.student_tokenizer, "data.student_tokenizer", self.trainer)
        )
        self._pad_id = student.pad_id
        for part in self._parts:
            part.encode(records, student, self.dialect_of(part.teacher.name, part.teacher.key))
        if not self._parts:
            return [encode_student(record, student) for record in records]
        found = {n: document.student for part in self._parts for n, document in part.documents.items()}
        return [found[number] for number in range(len(records))]

    def build(self, rows: list[list[int]]) -> DistillBatch:
        """Lay out the student's side, and each teacher's beside it."""
        students = [[self._students[number] for number in row] for row in rows]
        tokens = collate(students, self._pad_id)
        starts: dict[int, int] = {}
        for place, (row, documents) in enumerate(zip(rows, students, strict=True)):
            lengths = [len(document.token_ids) for document in documents]
            first = place * tokens["input_ids"].shape[1]
            starts |= zip(row, accumulate(lengths, initial=first), strict=False)
        parts = [part.tokens(rows, starts) for part in self._parts]
        batch = cast("DistillBatch", {**tokens, **(parts[0] if parts else {})})
        if len(parts) == 2:
            batch["think_on"] = parts[1]
        return batch
