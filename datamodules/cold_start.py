"""Stage 2: the student's own shortest correct responses, labelled by majority vote."""

from dataclasses import asdict
from typing import Any

from katlit.batch import Prompt, TokenBatch
from katlit.datamodules.dialects.dialects import BALLOT_TEMPLATE
from katlit.datamodules.labelled import BatchSettings, LabelledData, Sources
from katlit.datamodules.labelling.chat_model import ChatModel
from katlit.datamodules.labelling.majority_vote import VoteSettings, label_by_vote
from katlit.datamodules.labelling.shared import DEFAULT_JUDGES
from katlit.datamodules.records import Record
from katlit.datamodules.sources.base import PromptSource
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.model.pretrained import load_tokenizer
from katlit.packing import Document, collate
from katlit.rewards import Reward
from katlit.text.protocol import Mode, Protocol, Thinking, prepare_tokenizer

_SAMPLING = SamplingParameters()
_VOTE = VoteSettings()
_BATCHES = BatchSettings()


def encode_record(record: Record, protocol: Protocol) -> Document:
    """Encode a record; every token of the response is a target, judge and mode marker included.

    Where the mode was forced they are part of the prompt.
    """
    thinking: Thinking = record.regime.value if record.forced else "auto"
    prompt = protocol.encode_prompt(record.messages, thinking)
    reply = protocol.encode_response(record.response(), thinking)
    return Document(prompt + reply, [False] * len(prompt) + [True] * len(reply))


class ColdStartData(LabelledData[TokenBatch]):
    """Records labelled by the pass rates of a student in both modes.

    Args:
        student: Directory of the student (from stage 1): the tokenizer, and the model that is sampled.
        prompts: Queries to label; not needed with `records_file`.
        engine: Engine that samples the student, then the judge writer; closed after labelling.
        accuracy: Scorer that verifies the student's answers; each prompt's own verifier if not given.
        judge_writer: Directory of a strong model that writes the judge texts, such as the teacher.
        labelling: N, δ, ε, ballots, shares of wishes and of forced modes, seed.
        judge_on: Judge text of a think-on record where no ballot agrees.
        judge_off: Judge text of a think-off record where no ballot agrees.
        sampling: How the models are sampled.
        ballot_tokens: Longest ballot of the judge writer, in tokens.
        ballot_template: Question put to a judge writer that does not speak our protocol; holds `{question}`.
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
        judge_writer: str | None = None,
        labelling: VoteSettings = _VOTE,
        judge_on: str = DEFAULT_JUDGES[Mode.THINK_ON],
        judge_off: str = DEFAULT_JUDGES[Mode.THINK_OFF],
        sampling: SamplingParameters = _SAMPLING,
        ballot_tokens: int = 64,
        ballot_template: str = BALLOT_TEMPLATE,
        batches: BatchSettings = _BATCHES,
        records_file: str | None = None,
        cache_dir: str = "outputs/cache",
    ) -> None:
        super().__init__(prompts, engine, accuracy, sampling, batches, records_file, cache_dir)
        self.student = student
        self.judge_writer = judge_writer
        self.labelling = labelling
        self.judges = {Mode.THINK_ON: judge_on, Mode.THINK_OFF: judge_off}
        self.ballot_tokens = ballot_tokens
        self.ballot_template = ballot_template

    def models(self) -> list[str]:
        """The student labels, and the judge writer, if any."""
        return [self.student] if self.judge_writer is None else [self.student, self.judge_writer]

    def settings(self) -> dict[str, Any]:
        """All that changes the labels."""
        return {
            "labelling": asdict(self.labelling),
            "judges": self.judges,
            "ballot_tokens": self.ballot_tokens,
            "ballot_template": self.ballot_template,
        }

    def label(self, prompts: list[Prompt], sources: Sources) -> list[Record]:
        """Sample the student, then let the judge writer vote."""
        student, *writers = (
            ChatModel(directory, sources.engine, self._sampling, self.ballot_tokens, self.ballot_template)
            for directory in self.models()
        )
        return label_by_vote(
            prompts, student, sources.accuracy, self.labelling, next(iter(writers), None), self.judges
        )

    def encode(self, records: list[Record]) -> list[Document]:
        """Encode with the student's tokenizer."""
        tokenizer = load_tokenizer(self.student, "data.student")
        prepare_tokenizer(tokenizer)
        self._protocol = Protocol(tokenizer)
        self._documents = [encode_record(record, self._protocol) for record in records]
        return self._documents

    def build(self, rows: list[list[int]]) -> TokenBatch:
        """Lay out the documents."""
        return collate([[self._documents[index] for index in row] for row in rows], self._protocol.pad_id)
