"""A deeper model computes the same at step 0, learns, and is an ordinary model of its depth ever after."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tinymodel import LLAMA, QWEN, fit, packed, tiny_backbone
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from katlit.commands.plan.memory import Job
from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.depth import DepthSettings, deepen, layer_order, new_layers
from katlit.model.lora import LoraSettings
from katlit.model.outline import backbone_shape
from katlit.model.pretrained import build_model
from katlit.modules import ColdStartSFT

ROOT = Path(__file__).parents[3]
FOUR: dict[str, Any] = QWEN | {"num_hidden_layers": 4}
SIX = DepthSettings(layers=6)
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": FOUR,
    "tied": FOUR | {"tie_word_embeddings": True},
    "llama": LLAMA | {"num_hidden_layers": 4, "attention_bias": True, "mlp_bias": True},
    "qwen3": FOUR | {"model_type": "qwen3", "head_dim": 8},
    "olmo2": FOUR | {"model_type": "olmo2"},  # norms behind the projections
    "mixed": FOUR
    | {
        "use_sliding_window": True,
        "sliding_window": 3,
        "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
    },
}


def export(directory: Path, config: dict[str, Any] = FOUR, **settings: Any) -> str:
    backbone = tiny_backbone(directory, config, **settings)
    backbone.materialize()
    with torch.no_grad():  # fresh biases are 0, and would hide a forgotten one
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    backbone.export(directory / "plain")
    return str(directory / "plain")


def deeper(directory: Path, config: dict[str, Any] = FOUR, depth: DepthSettings = SIX) -> Backbone:
    backbone = Backbone(model=export(directory, config), depth=depth)
    backbone.materialize()
    return backbone


def logits(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    return backbone.logits(backbone(batch["input_ids"], batch["position_ids"]).main)


@pytest.mark.parametrize(
    ("number", "layers", "order"),
    [
        (4, 6, [0, 1, 1, 2, 3, 3]),
        (3, 4, [0, 1, 2, 2]),
        (2, 7, [0, 0, 0, 1, 1, 1, 1]),
        (5, 7, [0, 1, 2, 2, 3, 4, 4]),
    ],
)
def test_copies_are_spread_evenly(number: int, layers: int, order: list[int]) -> None:
    assert layer_order(DepthSettings(layers=layers), number) == order


def test_sixteen_of_sixty_four() -> None:
    order = layer_order(DepthSettings(layers=80), 64)
    assert new_layers(order) == list(range(4, 80, 5))
    assert [order[i] for i in new_layers(order)] == list(range(3, 64, 4))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("depth", [SIX, DepthSettings(order=[0, 1, 0, 1, 2, 3])], ids=["even", "order"])
def test_the_function_is_unchanged(name: str, depth: DepthSettings, tmp_path: Path) -> None:
    config = CONFIGS[name]
    backbone = deeper(tmp_path, config, depth)
    plain = Backbone(model=str(tmp_path / "plain"))
    plain.materialize()
    batch = packed([[9, 6], [12]])
    layers, _ = backbone.decoder()
    assert len(layers) == backbone.causal_lm.config.num_hidden_layers == 6
    torch.testing.assert_close(logits(backbone, batch), logits(plain, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_deeper_model_is_an_ordinary_one(name: str, tmp_path: Path) -> None:
    """Shuffled weights: they come back after an export, and the cache of generation keeps layers apart."""
    backbone = deeper(tmp_path, CONFIGS[name])
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    backbone.export(tmp_path / "deep")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "deep", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_hidden_layers == 6
    prompt = torch.tensor([[5, 6, 7, 8]])
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    for candidate in (model.eval(), backbone.causal_lm.eval()):
        text = candidate.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0]
        rows = logits(backbone, {"input_ids": text[None], "position_ids": torch.arange(12)[None]})[0]
        assert text[4:].tolist() == rows[3:-1].argmax(-1).tolist()


def test_mtp_modules_start_as_without(tmp_path: Path) -> None:
    source = export(tmp_path)
    modules = []
    for depth in (None, SIX):
        backbone = Backbone(model=source, depth=depth, mtp_depth=1)
        backbone.materialize()
        modules.append(backbone.mtp.state_dict())
    assert all(torch.equal(modules[0][name], modules[1][name]) for name in modules[0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_the_new_layers_and_the_mtp_modules_are_trained(checkpointing: bool, tmp_path: Path) -> None:
    backbone = Backbone(
        model=export(tmp_path),
        mtp_depth=1,
        depth=DepthSettings(layers=6, train_only_new=True),
        gradient_checkpointing=checkpointing,
    )
    stage = ColdStartSFT(backbone, mtp_weight=0.3)
    batch = packed([[12, 9], [20]])
    stage.configure_model()
    before = {name: weight.clone() for name, weight in backbone.named_weights(include_mtp=True)}
    trainer = fit(stage, [batch] * 3, max_steps=3)
    (optimizer,) = trainer.optimizers
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    layers, _ = backbone.decoder()
    free = nn.ModuleList([layers[2], layers[5], *backbone.mtp])
    assert held == {id(parameter) for parameter in free.parameters()}
    after = dict(backbone.named_weights(include_mtp=True))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    prefixes = ("model.layers.2.", "model.layers.5.", "model.mtp_layers.0.")
    assert moved == {name for name in before if name.startswith(prefixes)}


def test_all_is_trained_otherwise(tmp_path: Path) -> None:
    stage = ColdStartSFT(deeper(tmp_path))
    stage.configure_model()
    before = {name: weight.clone() for name, weight in stage.backbone.named_weights()}
    fit(stage, [packed([[12, 9], [20]])] * 4, max_steps=4)
    after = dict(stage.backbone.named_weights())
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_an_export_is_not_made_deeper_again(tmp_path: Path) -> None:
    deeper(tmp_path).export(tmp_path / "deep")
    assert json.loads((tmp_path / "deep/config.json").read_text())["upscaled_layers"] == [2, 5]
    again = Backbone(init_from=str(tmp_path / "deep"))
    again.materialize()
    assert len(again.decoder()[0]) == 6
    assert all(parameter.requires_grad for parameter in again.parameters())
    for settings in (SIX, DepthSettings(layers=8)):
        once_more = Backbone(init_from=str(tmp_path / "deep"), depth=settings)
        with pytest.raises(UserError, match=r"made deeper before, its layers \[2, 5\] are new"):
            once_more.materialize()
        with pytest.raises(UserError, match=r"made deeper before, its layers \[2, 5\] are new"):
            backbone_shape(once_more)


def test_the_plan_counts_what_is_trained(tmp_path: Path) -> None:
    settings = {"model": export(tmp_path), "mtp_depth": 1}
    for only_new in (False, True):
        backbone = Backbone(**settings, depth=DepthSettings(layers=6, train_only_new=only_new))
        for trains_mtp in (False, True):
            shape = backbone_shape(backbone)
            counted = {"shape": shape, "trains_mtp": trains_mtp, "only_new": only_new}
            job = Job(**dict.fromkeys(field.name for field in fields(Job)) | counted)  # type: ignore[arg-type]
            backbone.materialize()
            backbone.mtp.requires_grad_(trains_mtp)
            assert shape.total == sum(p.numel() for p in backbone.parameters())
            assert job.trained == sum(p.numel() for p in backbone.parameters() if p.requires_grad)


def test_bad_settings_are_named() -> None:
    for settings in ({}, {"layers": 6, "order": [0, 0]}):
        with pytest.raises(UserError, match=r"give one of the two"):
            DepthSettings(**settings)
    for order in ([0, 1, 2, 3], [0, 1, 3, 2, 2], [0, 0, 1, 2], [0, 1, 2, 3, 4, 4], []):
        with pytest.raises(UserError, match=r"backbone\.depth\.order: .*the model has 4 layers"):
            layer_order(DepthSettings(order=order), 4)
    with pytest.raises(UserError, match=r"backbone\.depth\.layers: 4, but the model has 4"):
        layer_order(DepthSettings(layers=4), 4)
    with pytest.raises(UserError, match=r"backbone\.lora is set"):
        Backbone(config=FOUR, depth=SIX, lora=LoraSettings())


def test_the_40b_shape_without_weights() -> None:
    """The 32B model from 64 layers to 80 has the parameters of a model that was built so deep."""
    settings = yaml.safe_load((ROOT / "configs/plan/dense-40b.yaml").read_text())
    given = settings["model"]["init_args"]["backbone"]["init_args"]
    depth = DepthSettings(**given.pop("depth"))
    backbone = Backbone(**given, depth=depth)
    shape = backbone_shape(backbone)
    assert (given["config"]["num_hidden_layers"], shape.layers) == (64, 80)
    assert round(shape.parameters / 1e9, 1) == 40.6
    with torch.device("meta"):
        model = build_model(given["config"], 0, "test", "float32", "sdpa")
        truth = build_model(given["config"] | {"num_hidden_layers": 80}, 0, "test", "float32", "sdpa")
    deepen(model, depth)
    found, expected = ({n: p.shape for n, p in m.named_parameters()} for m in (model, truth))
    assert found == expected
    assert sum(p.numel() for p in model.parameters()) == shape.parameters
    assert model.config.layer_types == truth.config.layer_types
