"""What a stage reads of records: lengths that a batch can hold, and the student's side without a teacher."""

import inspect
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch.trainer.connectors.data_connector import _DataConnector

from katlit.datamodules import ColdStartData, DistillData, DualRegime, FilePrompts
from katlit.datamodules.base import BatchSettings
from katlit.datamodules.jsonl import write_rows
from katlit.engines import HFEngine, RolloutEngine, VLLMEngine, VLLMServer
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


def test_processes_that_wait_for_one_that_labels_are_told_of_katlit_label(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    data: Any = ColdStartData(student="student", records_file="records.jsonl")
    data._records_file, data._labels = None, Mock()
    data.trainer = Mock(world_size=4, training=True, default_root_dir=str(tmp_path))
    data._labels.path.return_value = Path("no such file")
    data.prepare_data()
    assert "makes them alone, and 3 others wait for it" in caplog.text
    assert "katlit label with the same settings makes them on all" in caplog.text
    caplog.clear()
    data.trainer.training = False  # as `katlit label` itself calls it
    data.prepare_data()
    data.trainer.training = True
    data._labels.path.return_value = Path(__file__)
    data.prepare_data()
    assert not caplog.records
    assert data._labels.make.call_count == 3


@pytest.mark.parametrize(("engine", "refused"), [(HFEngine, False), (VLLMEngine, True), (VLLMServer, True)])
def test_processes_that_train_are_not_kept_waiting_by_an_engine_that_waits_for_them(
    engine: type[RolloutEngine], refused: bool, models_root: Path, tmp_path: Path
) -> None:
    write_rows(tmp_path / "records.jsonl", ROWS)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "1 + 1", "reference": "2"}])
    ours, labeller = str(models_root / "ours"), DualRegime(str(models_root / "ours"))
    prompts = FilePrompts(str(tmp_path / "prompts.jsonl"))
    settings: dict[str, Any] = {"cache_dir": str(tmp_path / "cache"), "batches": BatchSettings()}
    DistillData(ours, ours, records_file=str(tmp_path / "records.jsonl"), **settings).require_labels()
    data = DistillData(ours, ours, prompts, engine(), labeller=labeller, **settings)
    mend = "run the same command with label in place of fit first"
    with pytest.raises(UserError, match=mend) if refused else nullcontext():
        data.require_labels()
    data.records_path().parent.mkdir()
    data.records_path().touch()
    data.require_labels()


def test_processes_that_wait_read_what_the_one_that_labelled_has_written(
    models_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the records depends on how the models think, which only that one finds out."""
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "1 + 1", "reference": "2"}])
    ours, keys = str(models_root / "ours"), iter(["before", "after"])
    prompts, labeller = FilePrompts(str(tmp_path / "prompts.jsonl")), DualRegime(ours)
    data = DistillData(ours, ours, prompts, HFEngine(), labeller=labeller, cache_dir=str(tmp_path))
    monkeypatch.setattr("katlit.datamodules.labelling.labels.fingerprint", lambda *_: next(keys))
    data.require_labels()
    assert "after" in data.records_path().name


def test_they_wait_without_a_time_limit() -> None:
    assert "with _InfiniteBarrier()" in inspect.getsource(_DataConnector.prepare_data)
