"""Stage 1: dual-regime data from a teacher, and the teacher's tokens beside the student's."""

import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch

from datamodules.alignment import pair_targets
from datamodules.chat_model import ChatModel
from datamodules.dialects import BALLOT_TEMPLATE, Dialect, KatlitDialect, choose_dialect
from datamodules.dual_regime import DualRegimeSettings, label_dual_regime
from datamodules.labelled import BatchSettings, LabelledData, Sources
from datamodules.records import Record
from datamodules.sources import PromptSource
from katlit.batch import DistillBatch, Prompt
from katlit.packing import Document, collate, fill_rows
from katlit.pretrained import load_tokenizer
from katlit.protocol import Protocol, prepare_tokenizer
from katlit.rewards import Reward
from katlit.rollout.engine import RolloutEngine, SamplingParameters

logger = logging.getLogger(__name__)

_SAMPLING = SamplingParameters()
_LABELLING = DualRegimeSettings()
_BATCHES = BatchSettings()


@dataclass(frozen=True, slots=True)
class DistillDocument:
    """One record on both sides; `pairs` are (student, teacher) indices of corresponding target tokens."""

    student: Document
    teacher_ids: list[int]
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
        teacher_prompt + [token for piece in teacher_pieces for token in piece.token_ids],
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
    ) -> None:
        super().__init__(prompts, engine, accuracy, sampling, batches, records_file, cache_dir)
        self.student_tokenizer = student_tokenizer
        self.teacher = teacher
        self.labelling = labelling
        self.ballot_tokens = ballot_tokens
        self.ballot_template = ballot_template
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

    def encode(self, records: list[Record]) -> list[Document]:
        """Encode both sides and pair their targets."""
        tokenizer = load_tokenizer(self.student_tokenizer, "data.student_tokenizer")
        prepare_tokenizer(tokenizer)
        student = KatlitDialect(Protocol(tokenizer))
        teacher = choose_dialect(
            load_tokenizer(self.teacher, "data.teacher"), self.teacher, self.ballot_template
        )
        self._documents = [encode_pair(record, student, teacher) for record in records]
        self._pad_ids = (student.pad_id, teacher.pad_id)
        targets = sum(sum(document.student.loss_mask) for document in self._documents)
        pairs = sum(len(document.pairs) for document in self._documents)
        self.unpaired_share = 1.0 - pairs / targets
        logger.info("distillation: %.2f %% of %d targets are unpaired", 100 * self.unpaired_share, targets)
        return [document.student for document in self._documents]

    def build(self, rows: list[list[int]]) -> DistillBatch:
        """Lay out both sides; a row of the teacher holds the documents of the student's row."""
        documents = [[self._documents[index] for index in row] for row in rows]
        tokens = collate([[document.student for document in row] for row in documents], self._pad_ids[0])
        teacher_ids, teacher_positions = fill_rows(
            [[document.teacher_ids for document in row] for row in documents], self._pad_ids[1]
        )
        pairs: list[tuple[int, int]] = []
        for number, row in enumerate(documents):
            left, right = number * tokens["input_ids"].shape[1], number * teacher_ids.shape[1]
            for document in row:
                pairs += [(left + student, right + teacher) for student, teacher in document.pairs]
                left += len(document.student.token_ids)
                right += len(document.teacher_ids)
        aligned = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        return {
            **tokens,
            "teacher_input_ids": teacher_ids,
            "teacher_position_ids": teacher_positions,
            "student_targets": aligned[:, 0].contiguous(),
            "teacher_targets": aligned[:, 1].contiguous(),
        }
