"""Where a run has several machines, one prepares the data and all others read them."""

from pathlib import Path
from unittest.mock import Mock, call

import pytest

from katlit.commands import trainer as trainer_module
from katlit.commands.trainer import KatTrainer
from katlit.datamodules import DistillData, DualRegime, FilePrompts
from katlit.datamodules.jsonl import write_rows
from katlit.engines import HFEngine
from katlit.errors import UserError


@pytest.fixture
def data(models_root: Path, tmp_path: Path) -> DistillData:
    questions = tmp_path / "prompts.jsonl"
    write_rows(questions, [{"question": "1+1", "reference": "2"}])
    ours, engine = str(models_root / "ours"), HFEngine()
    prompts, labeller = FilePrompts(str(questions)), DualRegime(ours)
    return DistillData(ours, ours, prompts, engine, labeller=labeller, cache_dir=str(tmp_path))


@pytest.mark.parametrize("node", [0, 1])
def test_one_machine_prepares(data: DistillData, node: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What several sampled would differ."""
    trainer = KatTrainer(accelerator="cpu", devices=1, logger=False)
    trainer.datamodule = data
    called: list[int] = []
    monkeypatch.setattr(data, "prepare_data", lambda: called.append(node))
    monkeypatch.setattr(KatTrainer, "node_rank", node)
    trainer._data_connector.prepare_data()
    assert called == [0] * (node == 0)


def test_a_process_that_fails_tells_the_others(
    data: DistillData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = Mock()
    monkeypatch.setattr(trainer_module, "Meeting", lambda *_: met)
    monkeypatch.setattr(data, "label_share", Mock(side_effect=UserError("mine")))
    trainer = KatTrainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    monkeypatch.setattr(trainer_module, "_launched", lambda strategy, work: work())
    with pytest.raises(UserError, match="mine"):
        trainer.label(Mock(), data)
    assert met.mock_calls == [
        call.require_shared(tmp_path, "data.cache_dir"), call.arrive("settled"), call.wait("settled", 1),
        call.arrive("surveyed"), call.wait("surveyed"), call.fail(),
    ]  # fmt: skip


def test_labels_that_a_machine_does_not_see_are_asked_for(data: DistillData) -> None:
    with pytest.raises(UserError, match=r"distill-.*: no labels; set cache_dir to a folder that all mac"):
        data.setup("fit")
