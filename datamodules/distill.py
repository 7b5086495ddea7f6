"""Stage 1: dual-regime data from one teacher or two, and the teachers' tokens beside the student's."""

import logging
from itertools import accumulate
from typing import cast

from katlit.batch import DistillBatch
from katlit.datamodules.base import BatchSettings, LabelledData
from katlit.datamodules.dialects.dialects import BALLOT_TEMPLATE, KatlitDialect
from katlit.datamodules.labelling.base import Labeller
from katlit.datamodules.records import Record, read_records
from katlit.datamodules.sources.base import PromptSource
from katlit.datamodules.student import student_protocol
from katlit.datamodules.teachers.cached_teacher import CachedTeacher
from katlit.datamodules.teachers.part import DistillDocument, divide
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.packing import Document, collate
from katlit.rewards import Reward

logger = logging.getLogger(__name__)

_SAMPLING = SamplingParameters()
_BATCHES = BatchSettings()


class DistillData(LabelledData[DistillBatch]):
    """Dual-regime records labelled by a teacher, tokenized for student and teacher, with aligned targets.

    With two teachers (recipe §2) the first one votes on the queries and answers those that need no thinking,
    the second one those that do; the engine is started with one after the other. Of a file of records the
    regime says who wrote which.

    Args:
        student_tokenizer: Directory or name of the student's tokenizer; markers are added where missing.
        teacher: Directory of the teacher: a model of ours, or any chat model with a template.
        prompts: Queries to label; not needed with `records_file`.
        engine: Engine that samples the teachers; closed after labelling.
        accuracy: Scorer that verifies the teacher's answers; each prompt's own verifier if not given.
        labeller: Chooses modes and responses, such as `DualRegime`; not needed with `records_file`.
        sampling: How the teachers are sampled.
        ballot_tokens: Longest ballot of the teacher, in tokens.
        ballot_template: Question put to a teacher that does not speak our protocol; holds `{question}`.
        batches: Tokens of a batch, packing, validation share.
        records_file: Use these records (JSON Lines) instead of labelling.
        cache_dir: Folder of the labelled records.
        cached_teacher: What the teacher says of the records, written once, for a stage whose
            `teacher_placement` is cached.
        think_on_teacher: Directory of another teacher, for the think-on records.
        think_on_cached_teacher: What that one says of its records.
    """

    kind = "distill"

    def __init__(
        self,
        student_tokenizer: str,
        teacher: str,
        prompts: PromptSource | None = None,
        engine: RolloutEngine | None = None,
        accuracy: Reward | None = None,
        labeller: Labeller | None = None,
        sampling: SamplingParameters = _SAMPLING,
        ballot_tokens: int = 64,
        ballot_template: str = BALLOT_TEMPLATE,
        batches: BatchSettings = _BATCHES,
        records_file: str | None = None,
        cache_dir: str = "outputs/cache",
        cached_teacher: CachedTeacher | None = None,
        think_on_teacher: str | None = None,
        think_on_cached_teacher: CachedTeacher | None = None,
    ) -> None:
        super().__init__(
            prompts, engine, accuracy, labeller, sampling, ballot_tokens, ballot_template, batches,
            records_file, cache_dir,
        )  # fmt: skip
        self.student_tokenizer = student_tokenizer
        self.teacher = teacher
        second = None if think_on_teacher == teacher else think_on_teacher
        self._parts = divide(teacher, second, cached_teacher, think_on_cached_teacher)
        self.unpaired_share = 0.0  # of the student's targets, known after `setup`

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
        targets = sum(sum(document.student.loss_mask) for document in documents)
        pairs = sum(len(document.pairs) for document in documents)
        self.unpaired_share = 1.0 - pairs / targets
        logger.info("distillation: %.2f %% of %d targets are unpaired", 100 * self.unpaired_share, targets)
        self._students = [document.student for document in documents]
        return self._students

    def _encode(self, records: list[Record]) -> list[DistillDocument]:
        student = KatlitDialect(
            student_protocol(self.student_tokenizer, "data.student_tokenizer", self.trainer)
        )
        self._pad_id = student.pad_id
        found: dict[int, DistillDocument] = {}
        for part in self._parts:
            part.encode(records, student, self._ballot_template)
            found |= part.documents
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
        theirs, *others = (part.tokens(rows, starts) for part in self._parts)
        batch = cast("DistillBatch", {**tokens, **theirs})
        if others:
            batch["think_on"] = others[0]
        return batch
