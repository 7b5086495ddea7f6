import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from transformers import AutoTokenizer

from katlit.batch import Prompt
from katlit.datamodules import DistillData, DualRegime, FilePrompts
from katlit.datamodules.base import BatchSettings
from katlit.datamodules.dialects.alignment import pair_targets
from katlit.datamodules.dialects.dialects import BALLOT_TEMPLATE, PlainDialect, choose_dialect
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.dialects.ours import KatlitDialect
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import Record
from katlit.datamodules.teachers.part import encode_pair
from katlit.errors import UserError
from katlit.model.pretrained import load_tokenizer
from katlit.packing import MIN_FILL
from katlit.text.protocol import Mode, Protocol

THINK = Record(
    id="t", messages=[{"role": "user", "content": "1+2 <answer>"}], regime=Mode.THINK_ON, judge="j",
    think="1+2 = 3\n\ncafé </think> 😀", answer="3 <|im_end|>",
)  # fmt: skip
DIRECT = Record(id="d", messages=THINK.messages, regime=Mode.THINK_OFF, judge="j", answer="3")
PLAIN = Record(
    id="p", messages=[{"role": "user", "content": "1+2"}], regime=Mode.THINK_ON, judge="j",
    think="1+2 = 3\ncheck", answer="the answer is 3",
)  # fmt: skip


@pytest.fixture
def prompts(tmp_path: Path, sums: list[Prompt]) -> FilePrompts:
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))
    return FilePrompts(str(tmp_path / "prompts.jsonl"))


@pytest.fixture
def build(tmp_path: Path, models_root: Path, prompts: FilePrompts) -> Callable[..., DistillData]:
    def make(engine: Any, teacher: str = "ours-characters", seed: int = 0, **settings: Any) -> DistillData:
        return DistillData(
            student_tokenizer=str(models_root / "ours"),
            teacher=str(models_root / teacher),
            prompts=prompts,
            engine=engine,
            labeller=DualRegime(str(models_root / teacher), seed=seed),
            cache_dir=str(tmp_path / "cache"),
            **settings,
        )

    return make


def by_size(question: str) -> Mode:
    return Mode.THINK_ON if question.startswith("5") else Mode.THINK_OFF


def ready(data: DistillData) -> DistillData:
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("record", [THINK, DIRECT])
@pytest.mark.parametrize("name", ["byte-small", "byte-large", "characters"])
def test_one_tokenizer_pairs_every_target_with_itself(
    protocols: dict[str, Protocol], name: str, record: Record
) -> None:
    dialect = KatlitDialect(protocols[name])
    document = encode_pair(record, dialect, dialect)
    targets = [index for index, target in enumerate(document.student.loss_mask) if target]
    assert document.teacher.token_ids == document.student.token_ids
    assert document.pairs == [(index, index) for index in targets]


@pytest.mark.parametrize("record", [THINK, DIRECT])
def test_the_judge_is_read_and_the_same_follows_whether_it_was_forced_or_not(
    protocols: dict[str, Protocol], record: Record
) -> None:
    protocol = protocols["byte-small"]
    dialect = KatlitDialect(protocol)
    own, forced = (encode_pair(replace(record, forced=value), dialect, dialect) for value in (False, True))
    start = own.student.loss_mask.index(True)
    opening = protocol.decode(own.student.token_ids[:start])
    assert opening.endswith(f"<judge>\nj\n</judge>\n\n{record.regime.marker}")
    forced_start = forced.student.loss_mask.index(True)
    assert forced.student.token_ids[:forced_start] == protocol.encode_prompt(
        record.messages, record.regime.value
    )
    assert forced.student.token_ids[forced_start:] == own.student.token_ids[start:]
    assert [(left - start, right - start) for left, right in own.pairs] == [
        (left - forced_start, right - forced_start) for left, right in forced.pairs
    ]


@pytest.mark.parametrize("record", [THINK, DIRECT])
def test_pairs_across_our_tokenizers_have_consumed_the_same_text(
    protocols: dict[str, Protocol], record: Record
) -> None:
    student, teacher = (KatlitDialect(protocols[name]) for name in ("byte-small", "byte-large"))
    document = encode_pair(record, student, teacher)
    reply = document.student.loss_mask.index(True)
    teacher_reply = len(teacher.encode_judged(record.messages, record.response()))
    assert len(document.pairs) > 5
    for left, right in document.pairs:
        assert student.protocol.decode(document.student.token_ids[reply:left]) == teacher.protocol.decode(
            document.teacher.token_ids[teacher_reply:right]
        )


def test_a_plain_teacher_pairs_content_markers_and_the_end(
    protocols: dict[str, Protocol], models_root: Path
) -> None:
    student = KatlitDialect(protocols["byte-small"])
    teacher = choose_dialect(load_tokenizer(str(models_root / "plain"), "model"), "plain")
    tokenizer = AutoTokenizer.from_pretrained(models_root / "plain")
    document = encode_pair(PLAIN, student, teacher)
    left = [student.protocol.decode(document.student.token_ids[:index]) for index, _ in document.pairs]
    right = [tokenizer.decode(document.teacher.token_ids[:index]) for _, index in document.pairs]
    ends = [
        (mine.rpartition("<think>\n")[2], theirs.rpartition("<think>\n")[2])
        for mine, theirs in zip(left, right, strict=True)
        if "<think>\n" in mine and "</think>" not in mine
    ]
    assert len(ends) > 5
    assert all(mine == theirs for mine, theirs in ends)
    answers = [
        (mine.rpartition("<answer>\n")[2], theirs.rpartition("</think>\n\n")[2])
        for mine, theirs in zip(left, right, strict=True)
        if mine.endswith("<answer>\n" + mine.rpartition("<answer>\n")[2]) and "<answer>" in mine
    ]
    assert ("", "") in answers
    # The last pair is the end of the turn, whatever stands before it.
    assert all(mine == theirs for mine, theirs in answers[:-1])
    last = document.pairs[-1]
    assert document.student.token_ids[last[0]] == student.protocol.end_id
    assert document.teacher.token_ids[last[1]] == tokenizer.eos_token_id


KINDS = ("byte-small", "byte-composing", "characters", "unigram", "byte-fallback", "word-piece", "words")
HARD = "That was ﬁne: ½ café\u0301 👩\u200d👧 中文\n  x[0] <|im_end|> [end] [UNK] ▁Ġ <answer> the answer"


def plain_teacher(fast: Any, name: str) -> PlainDialect:
    """A teacher that thinks, though `<think>` is no token of its own."""
    tokenizer = fast(name)
    tokenizer.add_special_tokens({"eos_token": "[end]"})
    tokenizer.chat_template = "{{ messages[-1]['content'] }}[assistant]"
    return PlainDialect(tokenizer, BALLOT_TEMPLATE, thinking=ThinkingSettings("always"))


@pytest.mark.parametrize("name", KINDS)
def test_one_vocabulary_in_two_dialects_pairs_all_content_and_the_end(
    protocols: dict[str, Protocol], fast: Any, name: str
) -> None:
    student, teacher = KatlitDialect(protocols[name]), plain_teacher(fast, name)
    response = replace(THINK, think=HARD, answer=HARD).response()
    mine, theirs = student.lay_out(response), teacher.lay_out(response)
    names = {piece.name for piece in theirs} & {"<think> content", "<answer> content", "end"}
    assert len(names) == 3
    positions = [piece.name for piece in mine for _ in piece.token_ids]
    paired = [positions[left] for left, _ in pair_targets(mine, theirs)]
    assert [name for name in paired if name in names] == [name for name in positions if name in names]


@pytest.mark.parametrize(("left", "right"), list(itertools.permutations(KINDS[:6], 2)))
def test_one_hard_character_does_not_cost_the_rest_of_its_text(
    protocols: dict[str, Protocol], fast: Any, left: str, right: str
) -> None:
    """Neither an unknown or normalised character nor a marker's spelling in the text."""
    student, teacher = KatlitDialect(protocols[left]), plain_teacher(fast, right)
    for text in ("5 - 3 = 2 ½ answer - 3", "answer 中 - 3", "<answer> 5 - 3", "cafe\u0301 answer [end] - 3"):
        response = replace(DIRECT, answer=text).response()
        document = encode_pair(replace(DIRECT, answer=text), student, teacher)
        size = min(
            sum(len(piece.token_ids) for piece in dialect.lay_out(response) if "content" in piece.name)
            for dialect in (student, teacher)
        )
        assert len(document.pairs) >= 0.5 * size


def test_a_marker_on_one_side_only(protocols: dict[str, Protocol], fast: Any) -> None:
    """`<think>` is one token of the student and text of the teacher: they start together."""
    student, teacher = KatlitDialect(protocols["byte-small"]), plain_teacher(fast, "byte-large")
    mine, theirs = student.lay_out(THINK.response()), teacher.lay_out(THINK.response())
    paired = [
        ([token for piece in mine for token in piece.tokens][left],
         [token for piece in theirs for token in piece.tokens][right])
        for left, right in pair_targets(mine, theirs)
    ]  # fmt: skip
    assert ("<think>", "<") in paired
    assert ("</think>", "</") in paired or ("</think>", "<") in paired
    assert "<answer>" not in [left for left, _ in paired]
    assert paired[-1] == ("end", "end")


@pytest.mark.parametrize("packing", [False, True])
def test_batches_hold_both_sides_and_the_right_pairs(
    build: Any, make_engine: Any, models_root: Path, packing: bool
) -> None:
    batches = BatchSettings(batch_tokens=700, packing=packing, row_tokens=300, validation_share=0.2)
    data = ready(build(make_engine(), batches=batches))
    assert len(data.train_indices) == 16
    assert len(data.validation_indices) == 4
    assert not set(data.train_indices) & set(data.validation_indices)
    student = Protocol(AutoTokenizer.from_pretrained(data.student_tokenizer))
    teacher = Protocol(AutoTokenizer.from_pretrained(str(models_root / "ours-characters")))
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert batch["input_ids"].shape == batch["position_ids"].shape == batch["loss_mask"].shape
        assert (batch["input_ids"] != student.pad_id).float().mean() >= MIN_FILL
        assert len(batch["student_targets"]) == len(batch["teacher_targets"]) > 0
        assert batch["loss_mask"].flatten()[batch["student_targets"]].all()
        assert (batch["teacher_position_ids"].flatten()[batch["teacher_targets"]] > 0).all()
        mine = batch["input_ids"].flatten()[batch["student_targets"]].tolist()
        theirs = batch["teacher_input_ids"].flatten()[batch["teacher_targets"]].tolist()
        assert [student.decode([token])[:1] for token in mine] == [
            teacher.decode([token])[:1] for token in theirs
        ]
    assert 0 <= data.unpaired_share < 0.2


def test_nothing_is_sampled_twice(build: Any, make_engine: Any) -> None:
    engine, idle = make_engine(), make_engine()
    first, second = ready(build(engine)), ready(build(idle))
    assert engine.requests > 0
    assert idle.requests == 0
    assert idle.started == []
    for left, right in zip(first.train_dataloader(), second.train_dataloader(), strict=True):
        assert torch.equal(left["input_ids"], right["input_ids"])
    other = make_engine()
    build(other, seed=1).prepare_data()
    assert other.requests > 0


def test_the_engine_is_closed_whatever_happens(build: Any, make_engine: Any) -> None:
    engine = make_engine(right=lambda *_: False)
    with pytest.raises(UserError, match="labelling kept no record"):
        build(engine).prepare_data()
    assert engine.closed > 0


def test_construction_touches_nothing(tmp_path: Path) -> None:
    DistillData("/no/student", "/no/teacher", cache_dir=str(tmp_path / "cache"))
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_records_from_a_file(models_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    messages = [{"role": "user", "content": "1+1"}]
    record = {"messages": messages, "regime": "off", "judge": "j", "answer": "2"}
    write_rows(path, [record | {"id": str(index)} for index in range(4)])
    ours = str(models_root / "ours")
    data = ready(DistillData(ours, ours, records_file=str(path), batches=BatchSettings(validation_share=0.0)))
    assert data.unpaired_share == 0.0
    assert len(list(data.train_dataloader())) == 1
    assert len(data.train_indices) == 4
    assert not is_overridden("val_dataloader", data)


def test_nothing_to_label_and_batches_that_are_too_small(
    build: Any, make_engine: Any, models_root: Path
) -> None:
    with pytest.raises(
        UserError, match="DistillData: nothing to label; give prompts, a labeller and an engine"
    ):
        DistillData(str(models_root / "ours"), str(models_root / "ours")).prepare_data()
    with pytest.raises(UserError, match=r"^data\.batches\.batch_tokens: 10; all 20 think-off documents"):
        ready(build(make_engine(), batches=BatchSettings(batch_tokens=10)))


def test_over_long_documents_are_dropped_and_counted(
    build: Any, make_engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = ready(build(make_engine(wants=by_size))).lengths
    budget = max(lengths) - 1
    data = ready(build(make_engine(), batches=BatchSettings(batch_tokens=budget)))
    assert data.dropped == lengths.count(max(lengths)) > 0
    assert len(data.train_indices) + len(data.validation_indices) == 20 - data.dropped
    message = f"data: {data.dropped} of 20 documents are longer than batch_tokens={budget} and left out: "
    assert message + f"{data.dropped} think-on, such as '" in caplog.text
    assert f"({max(lengths)} tokens)" in caplog.text
