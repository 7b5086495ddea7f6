"""What a stage reads of records: lengths that a batch can hold, and the student's side without a teacher."""

from pathlib import Path

import pytest
import torch

from katlit.datamodules import DistillData, DualRegime
from katlit.datamodules.base import BatchSettings
from katlit.datamodules.jsonl import write_rows
from katlit.errors import UserError

TURN = {"messages": [{"role": "user", "content": "1+1"}], "judge": "j", "answer": "2"}
ROWS = [TURN | {"id": f"{i}", "regime": "off", "forced": i > 0} for i in range(3)]
ROWS += [TURN | {"id": f"on{i}", "regime": "on", "think": "1" * (300 + i)} for i in range(2)]


def ready(data: DistillData) -> DistillData:
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_mode_that_no_batch_can_hold_is_refused(tmp_path: Path, models_root: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_rows(path, ROWS)
    data = DistillData(
        str(models_root / "ours"), records_file=str(path), batches=BatchSettings(batch_tokens=200)
    )
    told = r"^data\.batches\.batch_tokens: 200; all 2 think-on documents of .* the shortest has \d+ tokens"
    with pytest.raises(UserError, match=told):
        ready(data)


def test_records_without_a_teacher_are_the_students_alone(tmp_path: Path, models_root: Path) -> None:
    write_rows(tmp_path / "records.jsonl", ROWS)
    ours, batches = str(models_root / "ours"), BatchSettings(validation_share=0.0)
    both, alone = (
        ready(DistillData(ours, teacher, records_file=str(tmp_path / "records.jsonl"), batches=batches))
        for teacher in (ours, None)
    )
    for whole, batch in zip(both.train_dataloader(), alone.train_dataloader(), strict=True):
        assert sorted(batch) == ["input_ids", "loss_mask", "position_ids"]
        assert all(torch.equal(batch[name], whole[name]) for name in batch)
    with pytest.raises(UserError, match=r"^data\.labeller\.teacher: not given; name the model that"):
        DualRegime().models()
