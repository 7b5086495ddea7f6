"""Pretraining of the small models under `assets/`: worked solutions, drawn anew each epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from lightning import LightningDataModule

from katlit.batch import TokenBatch
from katlit.datamodules.json_requests import asking_for_json
from katlit.datamodules.loader import EpochLoader, share_of
from katlit.datamodules.pretraining.solutions import result, solve, thinking
from katlit.datamodules.pretraining.wordings import Wordings
from katlit.datamodules.sources.tasks import Split, TaskFamily, in_heldout, task_entries
from katlit.datamodules.student import student_protocol
from katlit.datamodules.tool_turns import Turn
from katlit.errors import require
from katlit.packing import Document, collate, plan_epoch
from katlit.text.protocol import Mode, Response, Thinking

Style = Literal["protocol", "chat", "plain", "wordings"]

JUDGES = {Mode.THINK_ON: "It takes several steps", Mode.THINK_OFF: "It can be seen at once"}


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class WorkedLevel:
    """One level of a task and how its questions are judged.

    Attributes:
        task: The level; `share` weighs it against the others.
        think_share: Share of the judged responses that think, or of the solutions that show their steps.
    """

    task: TaskFamily
    think_share: float = 0.5


class WorkedData(LightningDataModule):
    """Questions with worked solutions, in the response protocol, as a chat without it, or as plain text.

    In the protocol half of the documents are judged (mode by the level's `think_share`), half answer a forced
    prompt. Without it a solution is `Steps:` and its lines, as often as `think_share` says, then `Answer:`
    and the result. In `wordings` it is a chat, the words around both are drawn, and some questions ask for
    their answer as a JSON object.

    Args:
        tokenizer: Directory of the tokenizer; markers are added where missing.
        levels: What to draw from, with replacement.
        style: `protocol` for a teacher; the others for a base that has never seen the protocol.
        object_share: Share of the questions that ask for an object, in `wordings`.
        documents: Documents an epoch.
        validation_documents: Held-out documents to validate on.
        batch_tokens: Most tokens of a batch, padding included.
        heldout_percent: As in `TaskPrompts`: these questions are never trained on.
        seed: Seed of all draws.
    """

    def __init__(
        self,
        tokenizer: str,
        levels: list[WorkedLevel],
        style: Style = "protocol",
        object_share: float = 0.2,
        documents: int = 4000,
        validation_documents: int = 500,
        batch_tokens: int = 4096,
        heldout_percent: int = 20,
        seed: int = 0,
    ) -> None:
        require(0 <= object_share <= 1, "data.object_share", object_share, "a share from 0 to 1")
        super().__init__()
        self._tokenizer = tokenizer
        self._levels = levels
        self._style = style
        self._object_share = object_share
        self._numbers: dict[Split, int] = {"train": documents, "heldout": validation_documents}
        self._batch_tokens = batch_tokens
        self._heldout_percent = heldout_percent
        self._seed = seed

    def setup(self, stage: str) -> None:  # noqa: ARG002 (Lightning's signature)
        """Load the tokenizer."""
        self._protocol = student_protocol(self._tokenizer, "data.tokenizer", self.trainer)
        self._wordings = Wordings(self._protocol)

    def train_dataloader(self) -> EpochLoader[list[Document], TokenBatch]:
        """New documents each epoch."""
        return EpochLoader(lambda epoch: self._plan("train", epoch), self._build, share_of(self.trainer))

    def val_dataloader(self) -> EpochLoader[list[Document], TokenBatch]:
        """The same held-out documents each time."""
        return EpochLoader(
            lambda _: self._plan("heldout", 0), self._build, share_of(self.trainer, steps=False)
        )

    def _build(self, documents: list[Document]) -> TokenBatch:
        return collate([[document] for document in documents], self._protocol.pad_id)

    def _plan(self, split: Split, epoch: int) -> list[list[Document]]:
        documents = list(self._draw(split, epoch))
        lengths = [len(document.token_ids) for document in documents]
        plan = plan_epoch(lengths, self._batch_tokens, None, self._seed, epoch)
        return [[documents[index] for row in rows for index in row] for rows in plan]

    def _draw(self, split: Split, epoch: int) -> Iterator[Document]:
        random = Random(f"{self._seed}/{split}/{epoch}")  # noqa: S311 (data, not a secret)
        questions = [self._questions(level.task, split, f"{self._seed}/{split}/{epoch}/{index}")
                     for index, level in enumerate(self._levels)]  # fmt: skip
        weights = [level.task.share for level in self._levels]
        for _ in range(self._numbers[split]):
            (index,) = random.choices(range(len(weights)), weights)
            entry = next(questions[index])
            lines = solve(self._levels[index].task.dataset, entry["metadata"])
            thinks = random.random() < self._levels[index].think_share
            if self._style == "wordings":
                yield self._in_other_words(entry["question"], lines, random, steps=thinks)
                continue
            if self._style != "protocol":
                yield self._unruled(entry["question"], lines, steps=thinks)
                continue
            forced: Thinking = random.choice(["auto", "auto", "on", "off"])
            thinks = thinks if forced == "auto" else forced == "on"
            yield self._spoken(entry["question"], lines, Mode.THINK_ON if thinks else Mode.THINK_OFF, forced)

    def _questions(self, task: TaskFamily, split: Split, seed: str) -> Iterator[dict[str, Any]]:
        heldout = split == "heldout"
        for entry in task_entries(task, seed):
            if in_heldout(entry["question"], self._heldout_percent) == heldout:
                yield entry

    def _unruled(self, question: str, lines: list[str], *, steps: bool) -> Document:
        """A solution without judge, modes and markers."""
        work = "\n".join(["Steps:", thinking(lines), ""]) if steps else ""
        prompt = self._protocol.encode_content(question + "\n")
        if self._style == "chat":
            prompt = self._chat([{"role": "user", "content": question}])
        reply = [*self._protocol.encode_content(f"{work}Answer: {result(lines)}"), self._protocol.end_id]
        return _document(prompt, reply)

    def _in_other_words(self, question: str, lines: list[str], random: Random, *, steps: bool) -> Document:
        messages: list[Turn] = [{"role": "user", "content": question}]
        answer = result(lines)
        if random.random() < self._object_share:
            messages = asking_for_json(messages, random)
            answer = f'{{"answer":{random.choice(("", " "))}{answer}}}'
        work = thinking(lines) if steps else ""
        return self._wordings.document(self._chat(messages), work, answer, random)

    def _chat(self, messages: list[Turn]) -> list[int]:
        """A prompt without its first marker."""
        prompt = self._protocol.encode_prompt(messages)
        return prompt[: prompt.index(self._protocol.marker_ids["<judge>"])]

    def _spoken(self, question: str, lines: list[str], mode: Mode, forced: Thinking) -> Document:
        think = thinking(lines) if mode is Mode.THINK_ON else ""
        response = Response(JUDGES[mode], mode, result(lines), think)
        prompt = self._protocol.encode_prompt([{"role": "user", "content": question}], forced)
        return _document(prompt, self._protocol.encode_response(response, forced))


def _document(prompt: list[int], reply: list[int]) -> Document:
    return Document(prompt + reply, [False] * len(prompt) + [True] * len(reply))
