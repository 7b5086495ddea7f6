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
    ExportModel(str(tmp_path), log_to_mlflow).on_fit_end(trainer, module)
    module.backbone.export.assert_called_once_with(str(tmp_path), TokenSampling(), STAGE)
    module.backbone.export_adapters.assert_not_called()
    assert logger.log_folder.call_count == int(global_zero and log_to_mlflow)


def test_a_folder_that_cannot_be_written_is_found_out_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    callback = ExportModel(str(tmp_path / "file/x"))
    callback.setup(Mock(), Mock(), "validate")
    with pytest.raises(UserError, match=r"ExportModel\.directory"):
        callback.setup(Mock(), Mock(), "fit")


def test_adapters_are_written_beside_where_there_are_any(tmp_path: Path) -> None:
    callback = ExportModel(str(tmp_path / "model"), adapter_directory=str(tmp_path / "adapters"))
    module = Mock()
    callback.setup(Mock(), module, "fit")
    callback.on_fit_end(Mock(loggers=[], fast_dev_run=0), module)
    module.backbone.export.assert_called_once_with(str(tmp_path / "model"), TokenSampling(), STAGE)
    module.backbone.export_adapters.assert_called_once_with(str(tmp_path / "adapters"))
    module.backbone.lora = None
    with pytest.raises(UserError, match=r"adapter_directory: .* set backbone\.lora"):
        callback.setup(Mock(), module, "fit")
