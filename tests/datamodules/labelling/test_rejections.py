"""What labelling says of ballots and replies that it cannot use, with an engine that plays a chat model."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from transformers import AutoTokenizer

from katlit.batch import Prompt
from katlit.datamodules import ColdStartData, DistillData, DualRegime, FilePrompts, MajorityVote
from katlit.datamodules.base import LabelledData
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.labelling.rejections import Reason, Rejections, report
from katlit.datamodules.records import Record, read_records
from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.errors import UserError
from katlit.rewards import AccuracyReward, Sample, Verdict
from katlit.text.protocol import Mode

THINKS = "Okay, so I need to add these two numbers. " * 4
REASONS = ["truncated", "mode", "malformed", "wrong", "unjudged"]  # of one model without agents
RECORD = Record(id="a", messages=[], regime=Mode.THINK_OFF, judge="", answer="1")


class ChatEngine(RolloutEngine):
    """Says what `votes` and `answers` say to the text of a prompt; the first gets those that are ballots."""

    def __init__(self, votes: Callable[[str], str], answers: Callable[[str], str] = lambda _: "no") -> None:
        self.votes = votes
        self.answers = answers
        self.requests = 0

    def start(self, model_directory: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model_directory)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        seeds: Sequence[int] | None = None,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        self.requests += len(prompts)
        return [self._one(self.tokenizer.decode(list(prompt)), sampling.max_tokens) for prompt in prompts]

    def _one(self, prompt: str, most: int) -> Completion:
        text = self.votes(prompt) if "multi-step" in prompt else self.answers(prompt)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Completion(ids[:most], [0.0] * len(ids[:most]), "length" if len(ids) > most else "stop")

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    @property
    def max_context(self) -> int:
        return 4096


class Moody(AccuracyReward):
    """Fails on the answer 13."""

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        return [
            Verdict(None, "unlucky") if sample.answer == "13" else verdict
            for sample, verdict in zip(samples, super().__call__(samples), strict=True)
        ]


@pytest.fixture
def distill(tmp_path: Path, models_root: Path, sums: list[Prompt]) -> Callable[..., LabelledData[Any]]:
    """Labels by a chat model, whose template tells it not to think but never to think."""

    def make(engine: RolloutEngine, **settings: Any) -> LabelledData[Any]:
        write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))
        teacher = str(models_root / "plain")
        return DistillData(
            str(models_root / "ours"), teacher, FilePrompts(str(tmp_path / "prompts.jsonl")), engine, Moody(),
            DualRegime(teacher, **settings), SamplingParameters(max_tokens=50), cache_dir=str(tmp_path),
        )  # fmt: skip

    return make


def test_a_teacher_that_thinks_before_it_votes_is_found_out_in_the_first_batch(
    distill: Callable[..., LabelledData[Any]],
) -> None:
    engine = ChatEngine(lambda _: THINKS)
    told = (
        r"^data\.ballot_tokens: 64; none of the first 80 ballots of '.*plain' is a vote, 80 were cut there, "
        r"and the first one is 'Okay, so I need to .*'; raise it for a model that thinks first, change data"
    )
    with pytest.raises(UserError, match=told):
        distill(engine, ballots=5).prepare_data()
    assert engine.requests == 16 * 5  # of 20 prompts


def test_what_such_a_ballot_says_moves_no_cursor(distill: Callable[..., LabelledData[Any]]) -> None:
    with pytest.raises(UserError, match=r"0 were cut there, and the first one is '\\x1b\[2JI\\nam\[end\]'"):
        distill(ChatEngine(lambda _: "\x1b[2JI\nam[end]")).prepare_data()


def test_unread_ballots_are_counted(
    distill: Callable[..., LabelledData[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    engine = ChatEngine(lambda prompt: "No." if "1+1" in prompt else "Well", lambda _: "2")
    with caplog.at_level("WARNING"):
        data = distill(engine, ballots=3)
        data.prepare_data()
    assert "plain: 57 ballots are no vote and do not count, 3 are votes" in caplog.text
    assert [record.votes for record in read_records(data.records_path())] == [{"on": 0, "off": 3}]


def test_a_judge_writer_that_writes_no_judge_is_found_out(
    tmp_path: Path, models_root: Path, distill: Callable[..., LabelledData[Any]]
) -> None:
    distill(ChatEngine(str))  # writes the prompts
    writer = str(models_root / "plain")
    data = ColdStartData(
        writer, FilePrompts(str(tmp_path / "prompts.jsonl")), ChatEngine(lambda _: THINKS, lambda _: "2"),
        labeller=MajorityVote(writer, judge_writer=writer, samples=1), cache_dir=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(
        UserError, match=r"^data\.ballot_tokens: 64; none of the first 48 ballots of '.*plain'"
    ):
        data.prepare_data()


def test_rejected_replies_are_counted_by_reason_and_some_are_kept(
    distill: Callable[..., LabelledData[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """Replies to 1+x think, to 2+x do not end, to 3+x say nothing, to 4+x are wrong, to 5+x are unjudged."""

    def answer(prompt: str) -> str:
        question = next(word for word in prompt.split("\n") if "+" in word).removeprefix("[user]")
        replies = {"1": "<think>\x1b[2J1\n</think>2", "2": THINKS * 9, "3": "[end]", "4": "0", "5": "13"}
        return "9" if question == "5+4" else replies[question[0]]

    data = distill(ChatEngine(lambda _: "No.", answer), tries=2)
    with caplog.at_level("INFO"):
        data.prepare_data()
    assert [record.id for record in read_records(data.records_path())] == ["5+4"]
    told = ("8 think-off mode", "8 think-off truncated", "8 think-off malformed", "8 think-off wrong")
    assert all(
        words in caplog.text for words in (*told, "labels: 38 replies rejected", "6 think-off unjudged")
    )
    file = data.records_path().with_name(f"rejected-{data.records_path().name}")
    assert f"some of them are in {file}" in caplog.text
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert Counter(row["reason"] for row in rows) == dict.fromkeys(REASONS, 5)
    first = {row["reason"]: row for row in reversed(rows)}
    assert (first["mode"]["prompt"], first["mode"]["asked"]) == ("1+1", "off")
    assert first["mode"]["reply"] == r"<think>\x1b[2J1\n</think>2"
    assert first["unjudged"]["why"] == "unlucky"
    assert first["malformed"]["why"] == "missing_answer"
    assert "labels: NO think-on record among 1, " in caplog.text
    assert "rejected: none, no query was to be answered so" in caplog.text


@pytest.mark.parametrize(
    ("vote", "answer", "blame"),
    [
        ("No.", "<think>1\n</think>2", "thought although asked not to; name a model that can answer"),
        ("Yes.", "2", "did not think although asked to; name a model that thinks"),
        ("No.", THINKS * 9, r"were cut; raise sampling\.max_tokens"),
        ("No.", "[end]", "had no answer, or were not well formed; read some"),
        ("No.", "0", "were wrong; check references and verifier"),
        ("No.", "13", "could not be judged; read why"),
    ],
)
def test_no_record_at_all_is_blamed_on_the_most_frequent_reason(
    distill: Callable[..., LabelledData[Any]], vote: str, answer: str, blame: str
) -> None:
    data = distill(ChatEngine(lambda _: vote, lambda _: answer), tries=1)
    told = (
        rf"labelling kept no record of 20 prompts; 20 of 20 rejected replies {blame}.*in .*/rejected-distill"
    )
    with pytest.raises(UserError, match=told):
        data.prepare_data()
    assert not data.records_path().exists()


@pytest.mark.parametrize(("reason", "agent"), [(Reason.UNREAD, "critic"), (Reason.UNTAGGED, "tagger")])
def test_what_an_agent_wrote_is_blamed_on_that_agent(reason: Reason, agent: str, tmp_path: Path) -> None:
    found = Rejections("model")
    found.add(reason, Mode.THINK_ON, "a", "", "reply")
    with pytest.raises(UserError, match=f"raise the {agent}'s max_tokens, or name another model for it"):
        report([found], [], 1, tmp_path / "r.jsonl")


def test_a_mode_without_records_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = Rejections("model")
    found.add(Reason.TRUNCATED, Mode.THINK_ON, "a", "", "reply")
    found.add(Reason.WRONG, Mode.THINK_OFF, "a", "", "reply")
    report([found], [RECORD], 2, tmp_path / "r.jsonl")
    assert "NO think-on record among 1, so" in caplog.text
    assert "; rejected: 1 think-on truncated\n" in caplog.text
    caplog.clear()
    report([], [replace(RECORD, regime=Mode.THINK_ON)], 2, tmp_path / "r.jsonl")
    assert "NO think-off record among 1, so" in caplog.text
    caplog.clear()
    report([found], [replace(RECORD, regime=mode) for mode in Mode], 2, tmp_path / "r.jsonl")
    assert "NO think" not in caplog.text
    with pytest.raises(
        UserError, match=r"no record of 2 prompts; nor was a reply rejected; raise engine\.max"
    ):
        report([], [], 2, tmp_path / "r.jsonl")
