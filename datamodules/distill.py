"""Stage 1: dual-regime data from a teacher, and the teacher's tokens beside the student's."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.alignment import pair_targets
from datamodules.cached_teacher import CachedTeacher
from datamodules.chat_model import ChatModel
from datamodules.dialects import BALLOT_TEMPLATE, Dialect, KatlitDialect, choose_dialect
from datamodules.dual_regime import DualRegimeSettings, label_dual_regime
from datamodules.labelled import BatchSettings, LabelledData, Sources
from datamodules.records import Record, read_records
from datamodules.sources import PromptSource
from katlit.batch import DistillBatch, Prompt
from katlit.packing import Document, collate, fill_rows
from katlit.pretrained import load_tokenizer
from katlit.protocol import Protocol, prepare_tokenizer
from katlit.rewards import Reward
from katlit.rollout.engine import RolloutEngine, SamplingParameters
from katlit.teacher.scorer import Transcript

logger = logging.getLogger(__name__)

_SAMPLING = SamplingParameters()
_LABELLING = DualRegimeSettings()
_BATCHES = BatchSettings()


@dataclass(frozen=True, slots=True)
class DistillDocument:
    """One record on both sides; `pairs` are (student, teacher) indices of corresponding target tokens."""

    student: Document
    teacher: Transcript
    pairs: list[tuple[int, int]]


def encode_pair(record: Record, student: KatlitDialect, teacher: Dialect) -> DistillDocument:
    """Encode a record for student and teacher, each in its dialect.

    The judge is read, not trained: whether to think is learnt in stage 2 (our choice).
    """
    response = record.response()
    prompt, teacher_prompt = (
        dialect.encode_prompt(record.messages, record.regime.value)
        if record.forced
        else dialect.encode_judged(record.messages, response)
        for dialect in (student, teacher)
    )
    pieces = student.lay_out(response)
    teacher_pieces = teacher.lay_out(response)
    reply = [token for piece in pieces for token in piece.token_ids]
    return DistillDocument(
        Document(prompt + reply, [False] * len(prompt) + [True] * len(reply)),
        Transcript(
            teacher_prompt + [token for piece in teacher_pieces for token in piece.token_ids],
            len(teacher_prompt),
        ),
        [
            (len(prompt) + left, len(teacher_prompt) + right)
            for left, right in pair_targets(pieces, teacher_pieces)
        ],
    )


class DistillData(LabelledData[DistillBatch]):
    """Dual-regime records labelled by a teacher, tokenized for student and teacher, with aligned targets.

    Args:
        student_tokenizer: Directory or name of the student's tokenizer; markers are added where missing.
        teacher: Directory of the teacher: a model of ours, or any chat model with a template.
        prompts: Queries to label; not needed with `records_file`.
        engine: Engine that samples the teacher; closed after labelling.
        accuracy: Scorer that verifies the teacher's answers; each prompt's own verifier if not given.
        labelling: Ballots, tries, ε, share of forced modes, think share and seed.
        sampling: How the teacher is sampled.
        ballot_tokens: Longest ballot of the teacher, in tokens.
        ballot_template: Question put to a teacher that does not speak our protocol; holds `{question}`.
        batches: Tokens of a batch, packing, validation share.
        records_file: Use these records (JSON Lines) instead of labelling.
        cache_dir: Folder of the labelled records.
        cached_teacher: What the teacher says of the records, written once, for a stage whose
            `teacher_placement` is cached.
    """

    kind = "distill"

    def __init__(
        self,
        student_tokenizer: str,
        teacher: str,
        prompts: PromptSource | None = None,
        engine: RolloutEngine | None = None,
        accuracy: Reward | None = None,
        labelling: DualRegimeSettings = _LABELLING,
        sampling: SamplingParameters = _SAMPLING,
        ballot_tokens: int = 64,
        ballot_template: str = BALLOT_TEMPLATE,
        batches: BatchSettings = _BATCHES,
        records_file: str | None = None,
        cache_dir: str = "outputs/cache",
        cached_teacher: CachedTeacher | None = None,
    ) -> None:
        super().__init__(prompts, engine, accuracy, sampling, batches, records_file, cache_dir)
        self.student_tokenizer = student_tokenizer
        self.teacher = teacher
        self.labelling = labelling
        self.ballot_tokens = ballot_tokens
        self.ballot_template = ballot_template
        self.cached_teacher = cached_teacher
        self.unpaired_share = 0.0  # of the student's targets, known after `setup`

    def models(self) -> list[str]:
        """The teacher labels."""
        return [self.teacher]

    def settings(self) -> dict[str, Any]:
        """All that changes the labels."""
        return {
            "labelling": asdict(self.labelling),
            "ballot_tokens": self.ballot_tokens,
            "ballot_template": self.ballot_template,
        }

    def label(self, prompts: list[Prompt], sources: Sources) -> list[Record]:
        """Sample the teacher."""
        teacher = ChatModel(
            self.teacher, sources.engine, self._sampling, self.ballot_tokens, self.ballot_template
        )
        with teacher:
            return label_dual_regime(prompts, teacher, sources.accuracy, self.labelling)

    def prepare_data(self) -> None:
        """Label, then ask the teacher for what a cache of it still lacks."""
        super().prepare_data()
        if self.cached_teacher is not None:
            self._encode(read_records(self.records_path()))
            self.cached_teacher.write(self.teacher, [document.teacher for document in self._documents])

    def encode(self, records: list[Record]) -> list[Document]:
        """Encode both sides and pair their targets."""
        self._encode(records)
        if self.cached_teacher is not None:
            self.cached_teacher.open(self.teacher, [document.teacher for document in self._documents])
        targets = sum(sum(document.student.loss_mask) for document in self._documents)
        pairs = sum(len(document.pairs) for document in self._documents)
        self.unpaired_share = 1.0 - pairs / targets
        logger.info("distillation: %.2f %% of %d targets are unpaired", 100 * self.unpaired_share, targets)
        return [document.student for document in self._documents]

    def _encode(self, records: list[Record]) -> None:
        tokenizer = load_tokenizer(self.student_tokenizer, "data.student_tokenizer")
        prepare_tokenizer(tokenizer)
        student = KatlitDialect(Protocol(tokenizer))
        teacher = choose_dialect(
            load_tokenizer(self.teacher, "data.teacher"), self.teacher, self.ballot_template
        )
        self._documents = [encode_pair(record, student, teacher) for record in records]
        self._pad_ids = (student.pad_id, teacher.pad_id)

    def build(self, rows: list[list[int]]) -> DistillBatch:
        """Lay out both sides; a row of the teacher holds the documents of the student's row."""
        documents = [[self._documents[index] for index in row] for row in rows]
        tokens = collate([[document.student for document in row] for row in documents], self._pad_ids[0])
        teacher_ids, teacher_positions = fill_rows(
            [[document.teacher.token_ids for document in row] for row in documents], self._pad_ids[1]
        )
        pairs: list[tuple[int, int]] = []
        for number, row in enumerate(documents):
            left, right = number * tokens["input_ids"].shape[1], number * teacher_ids.shape[1]
            for document in row:
                pairs += [(left + student, right + teacher) for student, teacher in document.pairs]
                left += len(document.student.token_ids)
                right += len(document.teacher.token_ids)
        aligned = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        batch: DistillBatch = {
            "input_ids": tokens["input_ids"],
            "position_ids": tokens["position_ids"],
            "loss_mask": tokens["loss_mask"],
            "teacher_input_ids": teacher_ids,
            "teacher_position_ids": teacher_positions,
            "student_targets": aligned[:, 0].contiguous(),
            "teacher_targets": aligned[:, 1].contiguous(),
        }
        if self.cached_teacher is not None:
            top = self._read(self.cached_teacher, [index for row in rows for index in row])
            batch["teacher_top_ids"], batch["teacher_top_log_probs"] = top
        return batch

    def _read(self, cache: CachedTeacher, indices: list[int]) -> tuple[Tensor, Tensor]:
        """What a cache says of the paired targets of these documents, in their order."""
        tops = [cache.read(index, [place for _, place in self._documents[index].pairs]) for index in indices]
        ids, log_probs = (np.concatenate(parts) for parts in zip(*tops, strict=True))
        return torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(log_probs.astype(np.float32))
