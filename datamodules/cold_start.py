"""Stage 2: the student's own shortest correct responses, labelled by majority vote."""

from katlit.batch import TokenBatch
from katlit.datamodules.base import BatchSettings, LabelledData
from katlit.datamodules.dialects.dialects import BALLOT_TEMPLATE
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.labelling.base import Labeller
from katlit.datamodules.records import Record
from katlit.datamodules.sources.base import PromptSource
from katlit.datamodules.student import student_protocol
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.packing import Document, collate
from katlit.progress import reported
from katlit.rewards import Reward
from katlit.text.protocol import Protocol, Thinking

_SAMPLING = SamplingParameters()
_BATCHES = BatchSettings()
_THINKING = ThinkingSettings()


def encode_record(record: Record, protocol: Protocol) -> Document:
    """Encode a record; every token of the response is a target, judge and mode marker included.

    Where the mode was forced they are part of the prompt.
    """
    thinking: Thinking = record.regime.value if record.forced else "auto"
    prompt = protocol.encode_prompt(record.messages, thinking, record.tools or None)
    reply = protocol.encode_response(record.response(), thinking)
    return Document(prompt + reply, [False] * len(prompt) + [True] * len(reply))


class ColdStartData(LabelledData[TokenBatch]):
    """Records labelled with a student's own samples, such as by majority vote.

    Args:
        student: Directory of the student (from stage 1): the tokenizer.
        prompts: Queries to label; not needed with `records_file`.
        engine: Engine that samples the labeller's models, one after the other; closed after labelling.
        accuracy: Scorer that verifies the student's answers; each prompt's own verifier if not given.
        labeller: Chooses modes and responses, such as `MajorityVote`; not needed with `records_file`.
        sampling: Sampling settings of the models.
        ballot_tokens: Longest ballot of a model, in tokens.
        ballot_template: Question put to a model that does not speak our protocol; holds `{question}`.
        thinking: How models that do not speak our protocol are made to think, or not to.
        batches: Tokens of a batch, packing, validation share.
        records_file: Use these records (JSON Lines) instead of labelling.
        cache_dir: Folder of the labelled records.
    """

    kind = "cold-start"

    def __init__(
        self,
        student: str,
        prompts: PromptSource | None = None,
        engine: RolloutEngine | None = None,
        accuracy: Reward | None = None,
        labeller: Labeller | None = None,
        sampling: SamplingParameters = _SAMPLING,
        ballot_tokens: int = 64,
        ballot_template: str = BALLOT_TEMPLATE,
        thinking: ThinkingSettings = _THINKING,
        batches: BatchSettings = _BATCHES,
        records_file: str | None = None,
        cache_dir: str = "outputs/cache",
    ) -> None:
        super().__init__(
            prompts, engine, accuracy, labeller, sampling, ballot_tokens, ballot_template, thinking,
            batches, records_file, cache_dir,
        )  # fmt: skip
        self.student = student

    def encode(self, records: list[Record]) -> list[Document]:
        """Encode with the student's tokenizer."""
        self._protocol = student_protocol(self.student, "data.student", self.trainer)
        self._documents = [
            encode_record(record, self._protocol) for record in reported(records, "records encoded")
        ]
        return self._documents

    def build(self, rows: list[list[int]]) -> TokenBatch:
        """Lay out the documents."""
        return collate([[self._documents[index] for index in row] for row in rows], self._protocol.pad_id)
