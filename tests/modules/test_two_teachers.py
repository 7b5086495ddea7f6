"""Stage 1 with a teacher for each regime: the mean of what each teacher alone makes of its own records."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import LLAMA, QWEN, fit, packed, tiny_backbone
from torch import Tensor

from katlit.errors import UserError
from katlit.modules import DistillMTP
from katlit.stage.needs import Needs
from katlit.stage.optimization import Optimization

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
LENGTHS, THINKS = [[6, 3, 4], [8, 5]], [[False, True, False], [True, False]]
UNPAIRED = 2  # of each document's last targets


def teacher(directory: Path, name: str, config: dict[str, Any] = QWEN, seed: int = 7) -> str:
    backbone = tiny_backbone(directory / name, config, seed=seed)
    backbone.materialize()
    backbone.export(directory / name / "model")
    return str(directory / name / "model")


def part_of(rows: list[list[tuple[int, Tensor]]]) -> dict[str, Tensor]:
    """A teacher's rows of documents, each with its start among the student's tokens; most are paired."""
    width = max(sum(len(ids) for _, ids in row) for row in rows)
    tokens, positions, pairs = torch.zeros(len(rows), width).long(), torch.zeros(len(rows), width).long(), []
    for number, row in enumerate(rows):
        left = 0
        for start, ids in row:
            tokens[number, left : left + len(ids)] = ids
            positions[number, left : left + len(ids)] = torch.arange(len(ids))
            own = range(1, len(ids) - UNPAIRED)
            pairs += [(start + place, number * width + left + place) for place in own]
            left += len(ids)
    ours, theirs = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    rows_of = {"teacher_input_ids": tokens, "teacher_position_ids": positions}
    return rows_of | {"student_targets": ours, "teacher_targets": theirs}


def documents(batch: dict[str, Tensor]) -> list[list[tuple[int, Tensor]]]:
    """Where each document of the student starts, and its tokens."""
    width = batch["input_ids"].shape[1]
    starts = [
        [number * width + sum(lengths[:index]) for index in range(len(lengths))]
        for number, lengths in enumerate(LENGTHS)
    ]
    flat = batch["input_ids"].flatten()
    return [
        [(start, flat[start : start + length]) for start, length in zip(row, lengths, strict=True)]
        for row, lengths in zip(starts, LENGTHS, strict=True)
    ]


def batch_of_two() -> tuple[dict[str, Any], list[tuple[bool, dict[str, Tensor]]]]:
    """A batch of both teachers, and each record alone, with whether it is the second one's."""
    batch = packed(LENGTHS)
    rows = documents(batch)
    parts = []
    for think in (False, True):
        own = [zip(row, thinks, strict=True) for row, thinks in zip(rows, THINKS, strict=True)]
        parts.append(part_of([[document for document, thinks in row if thinks is think] for row in own]))
    alone = []
    for row, thinks in zip(rows, THINKS, strict=True):
        for (_, ids), think in zip(row, thinks, strict=True):
            positions = torch.arange(len(ids)).unsqueeze(0)
            own = {"input_ids": ids.unsqueeze(0), "position_ids": positions, "loss_mask": positions > 0}
            alone.append((think, own | part_of([[(0, ids)]])))
    return batch | parts[0] | {"think_on": parts[1]}, alone


def named(think_off: str, think_on: str) -> dict[str, str]:
    return {"think_on": think_on, "think_off": think_off}


def built(directory: Path, *sources: str, **settings: Any) -> DistillMTP:
    torch.manual_seed(0)
    teacher = named(*sources) if len(sources) > 1 else sources[0]
    backbone = tiny_backbone(directory, mtp_depth=1)
    stage = DistillMTP(backbone, teacher, Optimization(learning_rate=1e-2), **settings)
    stage.configure_model()
    stage.log_training = lambda values: None
    return stage


@pytest.mark.parametrize(
    ("settings", "second"),
    [
        ({"kd": "jsd"}, QWEN),
        ({"kd": "uld"}, LLAMA | {"vocab_size": 300}),
        ({"uld_matching": "hybrid"}, QWEN | {"vocab_size": 300}),
    ],
)
def test_each_record_is_compared_with_the_teacher_that_wrote_it(
    tmp_path: Path, settings: dict[str, Any], second: dict[str, Any]
) -> None:
    sources = teacher(tmp_path, "first"), teacher(tmp_path, "second", second, seed=8)
    both = built(tmp_path, *sources, **settings)
    single = [built(tmp_path, source, **settings) for source in sources]
    for stage in single:
        stage.backbone = both.backbone
    batch, alone = batch_of_two()
    found: dict[str, list[Tensor]] = {}
    for think, record in alone:
        stage = single[think]
        for name, values in stage._terms(record, stage._hidden(record)[0]).items():
            found.setdefault(name, []).append(values)
    means = {name: torch.cat(values).mean() for name, values in found.items()}
    assert [len(torch.cat(found[name])) for name in ("ce", "kd", "mtp1_kd")] == [21, 11, 7]
    truth = means["ce"] + means["kd"] + 0.3 * (means["mtp1_ce"] + means["mtp1_kd"])
    loss = both.training_step(batch, 0)
    torch.testing.assert_close(loss, truth)
    expected = torch.autograd.grad(truth, list(both.parameters()))
    for ours, theirs in zip(torch.autograd.grad(loss, list(both.parameters())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)
    swapped = built(tmp_path, *reversed(sources), **settings)
    assert (swapped.training_step(batch, 0) - loss).abs() > 1e-4


def test_a_teacher_that_wrote_nothing_of_a_batch_is_read_all_the_same(tmp_path: Path) -> None:
    sources = teacher(tmp_path, "first"), teacher(tmp_path, "second", seed=8)
    both, one = built(tmp_path, *sources), built(tmp_path, sources[0])
    batch = packed(LENGTHS)
    batch |= part_of(documents(batch))
    nothing = torch.zeros(1, 1).long()
    none = {"teacher_input_ids": nothing, "teacher_position_ids": nothing}
    none |= {"student_targets": nothing[0, :0], "teacher_targets": nothing[0, :0]}
    read: list[Tensor] = []
    both._teachers[1].frozen.model.base_model.register_forward_pre_hook(
        lambda _, __, given: read.append(given["input_ids"]), with_kwargs=True
    )
    loss = both.training_step(batch | {"think_on": none}, 0)
    assert [ids.tolist() for ids in read] == [[[0]]]
    torch.testing.assert_close(loss, one.training_step(batch, 0))
    loss.backward()


def test_it_trains_and_validates(tmp_path: Path) -> None:
    stage = built(tmp_path, teacher(tmp_path, "first"), teacher(tmp_path, "second", seed=8))
    del stage.log_training
    batch, _ = batch_of_two()
    first = fit(stage, [batch], max_steps=1).callback_metrics["val/loss"]
    metrics = fit(stage, [batch], max_steps=20).callback_metrics
    assert metrics["val/loss"] < 0.8 * first
    torch.testing.assert_close(metrics["val/paired_share"], torch.tensor(11 / 21))
    assert all(name.startswith("backbone.") for name in stage.state_dict())


def test_mistakes_are_named(tmp_path: Path) -> None:
    first, second = teacher(tmp_path, "first"), teacher(tmp_path, "second", QWEN | {"vocab_size": 300})
    two, _ = batch_of_two()
    one = {name: value for name, value in two.items() if name != "think_on"}
    for stage, batch, message in (
        (built(tmp_path, first, second), one, r"has 2 teacher\(s\), the data 1"),
        (built(tmp_path, first), two, r"has 1 teacher\(s\), the data 2"),
    ):
        with pytest.raises(UserError, match=rf"^model\.teacher: the stage {message}; give"):
            stage.training_step(batch, 0)
    with pytest.raises(UserError, match=r"^model\.teacher\.think_on: directory './gone' does not exist"):
        built(tmp_path, first, "./gone")
    for placement in ("device", "cached"):
        with pytest.raises(UserError, match=r"one vocabulary, but that of model\.teacher\.think_on"):
            built(tmp_path, first, second, kd="jsd", teacher_placement=placement)
    for keys in (["think_on"], ["on", "off"], ["think_on", "think_off", "auto"], []):
        with pytest.raises(UserError, match=r"^model\.teacher: its keys are \[.*\]; give think_on and"):
            DistillMTP(tiny_backbone(tmp_path), dict.fromkeys(keys, second))
    with pytest.raises(UserError, match=r"cached, but the data have no teacher"):
        built(tmp_path, first, second, teacher_placement="cached").training_step(two, 0)


def test_what_a_plan_counts(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path)
    both = DistillMTP(backbone, named("a", "b"), teacher_placement="sharded")
    sources = {"model.teacher.think_off": "a", "model.teacher.think_on": "b"}
    assert both.needs() == Needs(("uld",), 2, sources, placement="sharded")
    cached = DistillMTP(backbone, named("a", "b"), teacher_placement="cached")
    assert cached.needs() == Needs(("top_k",), 2)
    assert DistillMTP(backbone, named("a", "a")).needs() == Needs(("uld",), 1, {"model.teacher": "a"})
