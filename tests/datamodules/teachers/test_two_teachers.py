"""Labels and batches of two teachers: each record is in the hands of the one that wrote it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from katlit.batch import Prompt
from katlit.datamodules import CachedTeacher, DistillData, DualRegime, FilePrompts
from katlit.datamodules.base import BatchSettings
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import read_records
from katlit.errors import UserError
from katlit.model.pretrained import load_tokenizer
from katlit.teacher import HFScorer
from katlit.teacher.by_mode import teachers_of
from katlit.text.protocol import Mode, Protocol

ROWS = [
    {"id": f"{i}", "messages": [{"role": "user", "content": f"{i}+1"}], "judge": "j", "answer": f"{i + 1}",
     **({"regime": "on", "think": f"{i} {'!' * i}"} if i % 3 == 0 else {"regime": "off"})}
    for i in range(9)
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, models_root: Path) -> Callable[..., DistillData]:
    """From a file of records; teachers are given by the names of their directories."""

    def make(first: str, second: str | None = None, rows: Any = ROWS, **settings: Any) -> DistillData:
        names = {"think_off": str(models_root / first), "think_on": str(models_root / (second or first))}
        write_rows(tmp_path / "records.jsonl", rows)
        batches = BatchSettings(batch_tokens=300, packing=True, row_tokens=150, validation_share=0.0)
        return DistillData(
            str(models_root / "ours"), names if second else names["think_off"],
            records_file=str(tmp_path / "records.jsonl"), batches=batches, **settings,
        )  # fmt: skip

    return make


def ready(data: DistillData) -> DistillData:
    data.prepare_data()
    data.setup("fit")
    return data


def test_labels_come_from_the_teacher_of_their_regime(
    tmp_path: Path, models_root: Path, sums: list[Prompt], make_engine: Any, hard: Any
) -> None:
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))

    def labelled(engine: Any, second: str | None, cache: str = "cache") -> DistillData:
        ours, prompts = str(models_root / "ours"), FilePrompts(str(tmp_path / "prompts.jsonl"))
        teacher = {"think_off": ours, "think_on": str(models_root / second)} if second else ours
        labeller = DualRegime(teacher, ballots=3)
        made = DistillData(ours, teacher, prompts, engine, labeller=labeller, cache_dir=str(tmp_path / cache))
        made.prepare_data()
        return made

    engine = make_engine(wants=hard)
    records = read_records(labelled(engine, "ours-characters").records_path())
    assert engine.started == ["ours", "ours-characters"]
    assert [record.regime for record in records] == [hard(prompt["id"]) for prompt in sums]
    assert {record.regime: Path(record.teacher).name for record in records} == {
        Mode.THINK_OFF: "ours", Mode.THINK_ON: "ours-characters",
    }  # fmt: skip
    assert all(record.votes[record.regime.value] == 3 for record in records)
    other, same = make_engine(wants=hard), make_engine(wants=hard)
    one = labelled(other, None)
    assert other.started == ["ours"]
    # By the same seeds, so that a second teacher changes nothing but who writes.
    alone = [record.answer + record.think for record in read_records(one.records_path())]
    assert alone == [record.answer + record.think for record in records]
    assert labelled(same, "ours").records_path() == one.records_path()
    assert same.requests == 0
    idle = make_engine(wants=lambda _: Mode.THINK_OFF, right=lambda *_: True)
    (tmp_path / "prompts.jsonl").write_text((tmp_path / "prompts.jsonl").read_text().splitlines()[0] + "\n")
    labelled(idle, "ours-characters", "new")
    assert idle.started == ["ours"]  # nothing to think about


def test_each_teacher_reads_its_own_records_and_the_pairs_are_the_same(
    data: Callable[..., DistillData], models_root: Path
) -> None:
    single = {name: ready(data(name)) for name in ("ours", "ours-characters")}
    two = ready(data("ours", "ours-characters"))
    protocol = Protocol(load_tokenizer(str(models_root / "ours"), "ours"))
    think_on = protocol.marker_ids["<think_on>"]
    assert two.train_indices == single["ours"].train_indices
    batches = [list(made.train_dataloader()) for made in (two, *single.values())]
    shares = []
    for both, *alone in zip(*batches, strict=True):
        # Which document of the student's a token is in, and whether that one thinks.
        positions = both["position_ids"].flatten()
        document = (positions == 0).cumsum(0)
        thinking = torch.isin(document, document[both["input_ids"].flatten() == think_on])
        for part, reference, regime in (
            (both, alone[0], ~thinking), (both["think_on"], alone[1], thinking),
        ):  # fmt: skip
            kept = regime[reference["student_targets"]]
            assert part["student_targets"].tolist() == reference["student_targets"][kept].tolist()
            expected = reference["teacher_input_ids"].flatten()[reference["teacher_targets"]][kept]
            assert part["teacher_input_ids"].flatten()[part["teacher_targets"]].tolist() == expected.tolist()
            places = reference["teacher_position_ids"].flatten()[reference["teacher_targets"]][kept]
            assert part["teacher_position_ids"].flatten()[part["teacher_targets"]].tolist() == places.tolist()
            if not kept.any():
                assert part["teacher_input_ids"].shape == (1, 1)
            shares.append(kept.float().mean().item())
    assert {0, 1} < set(shares)  # batches of one teacher, and of both


def test_a_teacher_named_twice_is_one(data: Callable[..., DistillData]) -> None:
    assert "think_on" not in next(iter(ready(data("ours", "ours")).train_dataloader()))


def test_each_teacher_has_a_cache_and_a_scorer_of_its_own(tmp_path: Path) -> None:
    scorers = {"think_on": HFScorer(), "think_off": HFScorer()}
    both = CachedTeacher(str(tmp_path), k=5, dtype="float32", shard_tokens=7, scorer=scorers)
    found = {
        teacher.key: both.of(teacher) for teacher in teachers_of(dict(zip(scorers, "ab", strict=True)), "t")
    }
    assert {key: cache.directory for key, cache in found.items()} == {
        f"t.{name}": tmp_path / name for name in scorers
    }
    assert {key: cache.scorer for key, cache in found.items()} == {
        f"t.{name}": scorer for name, scorer in scorers.items()
    }
    assert {(cache.k, cache.dtype, cache.shard_tokens) for cache in found.values()} == {(5, "float32", 7)}
    (one,) = teachers_of("a", "t")
    alone = CachedTeacher(str(tmp_path))
    assert alone.of(one) is alone


def test_mistakes_are_named(data: Callable[..., DistillData], tmp_path: Path) -> None:
    for second, keys, message in (
        (None, ["think_on", "think_off"], "two are given, but there is one teacher; give one, or"),
        ("ours", ["think_on", "think_off"], "two are given, but there is one teacher"),
        ("ours-characters", ["think_on"], r"its keys are \['think_on'\]; give think_on and think_off"),
    ):
        cached = CachedTeacher(str(tmp_path), scorer={key: HFScorer() for key in keys})
        with pytest.raises(UserError, match=rf"^data\.cached_teacher\.scorer: {message}"):
            data("ours", second, cached_teacher=cached)
    with pytest.raises(UserError, match=r"^data\.labeller\.teacher: its keys are \['think_off'\]; give"):
        DualRegime({"think_off": "ours"})
    for rows, regime in ((ROWS[1:3], "on"), (ROWS[:1], "off")):
        with pytest.raises(
            UserError,
            match=rf"^data\.teacher\.think_{regime}: '.*' has nothing to teach: .* think-{regime}; name",
        ):
            ready(data("ours", "ours-characters", rows))
    with pytest.raises(UserError, match=r"^data\.teacher\.think_on: directory"):
        ready(data("ours", "gone"))
