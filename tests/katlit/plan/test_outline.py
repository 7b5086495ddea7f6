"""Against models with weights."""

from pathlib import Path

import pytest
from tinymodel import LLAMA, QWEN, tiny_backbone
from torch import nn

from katlit.backbone import Backbone
from katlit.errors import UserError
from katlit.plan.outline import backbone_shape, config_shape, model_shape


def numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("config", [QWEN, LLAMA, QWEN | {"tie_word_embeddings": True, "vocab_size": 400}])
def test_parameters_are_those_of_the_model(config: dict[str, object], tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, config, mtp_depth=2)
    shape = backbone_shape(backbone)
    assert not backbone.is_materialized
    backbone.materialize()
    assert shape.total == numel(backbone)
    assert shape.mtp_parameters == numel(backbone.mtp)
    assert config_shape(backbone.causal_lm.config, 2) == shape


def test_an_exported_model_brings_its_mtp_modules(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, mtp_depth=1)
    backbone.materialize()
    backbone.export(tmp_path / "model")
    again = Backbone(init_from=str(tmp_path / "model"))
    assert backbone_shape(again) == backbone_shape(backbone)
    assert model_shape(str(tmp_path / "model"), "model.teacher").total == numel(backbone.causal_lm)


def test_a_model_must_be_named() -> None:
    with pytest.raises(UserError, match="give model"):
        backbone_shape(Backbone())
