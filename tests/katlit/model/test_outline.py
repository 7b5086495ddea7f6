"""Against models with weights."""

from pathlib import Path

import pytest
from tinymodel import LLAMA, QWEN, QWEN2_MOE, QWEN3_MOE, tiny_backbone
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.depth import DepthSettings
from katlit.model.lora import LoraSettings
from katlit.model.outline import backbone_adapters, backbone_shape, config_shape, model_shape
from katlit.model.shape import Adapters, adapters_of


def numel(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


TIED = QWEN | {"tie_word_embeddings": True, "vocab_size": 400}
MIXTRAL = QWEN | {"model_type": "mixtral", "num_local_experts": 4}


@pytest.mark.parametrize("config", [QWEN, LLAMA, TIED, QWEN3_MOE, QWEN2_MOE])
def test_parameters_are_those_of_the_model(config: dict[str, object], tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, config, mtp_depth=2)
    shape = backbone_shape(backbone)
    assert not backbone.is_materialized
    backbone.materialize()
    assert shape.total == numel(backbone)
    assert shape.mtp_parameters == numel(backbone.mtp)
    assert config_shape(backbone.causal_lm.config, 2) == shape


@pytest.mark.parametrize("markers", [True, False])
@pytest.mark.parametrize("config", [QWEN, LLAMA, TIED, QWEN2_MOE])
def test_adapters_are_those_of_the_model(config: dict[str, object], markers: bool, tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, config, mtp_depth=1)
    assert backbone_adapters(backbone) is None
    if not markers:  # an export has their rows
        backbone.materialize()
        backbone.export(tmp_path / "model")
        backbone = Backbone(init_from=str(tmp_path / "model"))
    targets = ["q_proj", "up_proj"]
    backbone.lora = LoraSettings(rank=4, target_modules=targets, train_markers=markers)
    adapters = backbone_adapters(backbone)
    assert not backbone.is_materialized
    backbone.materialize()
    assert adapters == adapters_of(backbone.causal_lm)
    trained = {name: one for name, one in backbone.causal_lm.named_parameters() if one.requires_grad}
    adapted = [one for name, one in trained.items() if "lora_A" in name]
    assert adapters == Adapters(
        sum(one.numel() for one in trained.values()), sum(one.shape[1] for one in adapted), 4 * len(adapted),
        markers,
    )  # fmt: skip


def test_an_exported_model_brings_its_mtp_modules(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, mtp_depth=1)
    backbone.materialize()
    backbone.export(tmp_path / "model")
    again = Backbone(init_from=str(tmp_path / "model"))
    assert backbone_shape(again) == backbone_shape(backbone)
    assert model_shape(str(tmp_path / "model"), "model.teacher").total == numel(backbone.causal_lm)


@pytest.mark.parametrize("config", [QWEN3_MOE, QWEN2_MOE, MIXTRAL])
def test_experts_are_those_of_the_model(config: dict[str, object]) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    shape = config_shape(model.config)
    experts = [part.experts for part in model.modules() if hasattr(part, "experts")]
    assert shape.expert_parameters == sum(map(numel, experts)) > 0
    assert shape.experts == 4
    assert shape.expert_parameters == 3 * shape.layers * shape.experts * shape.hidden * shape.intermediate
    assert shape.idle == shape.expert_parameters * (4 - shape.experts_per_token) / 4


def test_a_backbone_whose_experts_are_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the experts of mixtral are not known here, only those of qwen2_moe"):
        backbone_shape(tiny_backbone(tmp_path, MIXTRAL))


def test_a_model_must_be_named() -> None:
    with pytest.raises(UserError, match="give model"):
        backbone_shape(Backbone())


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_a_model_of_other_names_is_refused(kind: str, tmp_path: Path) -> None:
    config = {"model_type": kind, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    deeper = tiny_backbone(tmp_path, config, depth=DepthSettings(layers=3))
    with pytest.raises(UserError, match=f"plan: {kind} is no Llama-like decoder"):
        backbone_shape(deeper)
