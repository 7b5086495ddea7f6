from pathlib import Path
from unittest.mock import Mock, create_autospec

import pytest

from katlit.callbacks.export import ExportModel
from katlit.errors import UserError
from katlit.model.generation import TokenSampling
from katlit.tracking.mlflow import KatMLFlowLogger

STAGE = {"stage": "StepSRPO"}


@pytest.fixture(autouse=True)
def _stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katlit.callbacks.export.stage_record", lambda *_: STAGE)


@pytest.mark.parametrize("global_zero", [True, False])
@pytest.mark.parametrize("log_to_mlflow", [True, False])
def test_every_rank_exports_and_rank_0_logs(global_zero: bool, log_to_mlflow: bool, tmp_path: Path) -> None:
    logger = create_autospec(KatMLFlowLogger, instance=True)
    module = Mock()
    trainer = Mock(loggers=[logger], is_global_zero=global_zero, fast_dev_run=0)
    trainer.strategy.broadcast.side_effect = lambda value: value
    ExportModel(str(tmp_path), log_to_mlflow).on_fit_end(trainer, module)
    module.backbone.export.assert_called_once_with(str(tmp_path), TokenSampling(), STAGE)
    module.backbone.export_adapters.assert_not_called()
    assert logger.log_folder.call_count == int(global_zero and log_to_mlflow)


def test_a_model_of_another_run_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    model, module, trainer = tmp_path / "model", Mock(), Mock(loggers=[], fast_dev_run=0)
    trainer.strategy.broadcast.side_effect = lambda value: value

    def export(folder: str, *_: object) -> None:
        assert (model / "config.json").read_text() == "old"
        (Path(folder) / "config.json").write_text("new")

    module.backbone.export.side_effect = export
    model.mkdir()
    (model / "config.json").write_text("old")
    ExportModel(str(model)).on_fit_end(trainer, module)
    assert (model / "config.json").read_text() == "new"
    assert (tmp_path / "aside-1/model/config.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.run", "aside-1", "model"]


def test_at_the_start_what_a_killed_export_left_is_put_right(tmp_path: Path) -> None:
    for name in (".model.replaced/config.json", ".model.half/.lock", ".model.half/model/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ExportModel(str(tmp_path / "model")).setup(Mock(), Mock(), "fit")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["model", "model/config.json"]


def test_a_folder_that_cannot_be_written_is_found_out_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    callback = ExportModel(str(tmp_path / "file/x"))
    callback.setup(Mock(), Mock(), "validate")
    with pytest.raises(UserError, match=r"ExportModel\.directory"):
        callback.setup(Mock(), Mock(), "fit")


def test_adapters_are_written_beside_where_there_are_any(tmp_path: Path) -> None:
    callback = ExportModel(str(tmp_path / "model"), adapter_directory=str(tmp_path / "adapters"))
    module, trainer = Mock(), Mock(loggers=[], fast_dev_run=0)
    trainer.strategy.broadcast.side_effect = lambda value: value
    callback.setup(trainer, module, "fit")
    callback.on_fit_end(trainer, module)
    module.backbone.export.assert_called_once_with(str(tmp_path / "model"), TokenSampling(), STAGE)
    module.backbone.export_adapters.assert_called_once_with(str(tmp_path / "adapters"))
    module.backbone.lora = None
    with pytest.raises(UserError, match=r"adapter_directory: .* set backbone\.lora"):
        callback.setup(Mock(), module, "fit")
