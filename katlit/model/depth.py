"""Depth up-scaling: a deeper model that computes the same, from one whose layers are copied (recipe §3).

KAT-V1's 40B model has the shape of Qwen2.5-32B with 80 layers instead of 64. How the new ones start is not
published. Ours start as LLaMA Pro's (arXiv 2401.02415, §3.2): copies of old layers, between the old ones,
with their two output projections zeroed, so that each adds nothing to the residual stream until it is
trained.

Projections go by names, of which each family of models has its own; that the function is the same is then
measured, and that the configuration describes the deeper model, compared. What fails either is refused.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from katlit.errors import UserError

# What a layer's attention and its MLP add to the residual stream: names of the last projection of each.
_OUTPUTS = {
    "attention": ("o_proj", "out_proj", "dense", "c_proj", "Wo"),
    "MLP": ("down_proj", "fc2", "dense_4h_to_h", "c_proj", "fc_out", "Wo"),
}
_PASSING = ("training", "gradient_checkpointing")  # attributes that no configuration sets
UPSCALED_LAYERS = "upscaled_layers"  # in config.json: which layers are new


@dataclass(frozen=True)
class DepthSettings:
    """How a model is made deeper.

    Attributes:
        layers: Number of layers to come to; the new ones are spread evenly, each behind the layer that it
            copies, the last behind the last.
        order: Instead of `layers`, the old layers' indices in the new order, `[0, 1, 1, 2, 3, 3]`: where an
            index comes again, a copy stands. The old layers keep their order.
        train_only_new: Train the new layers and, in stage 1, the MTP modules; all else is frozen, the rows
            of new tokens too. A first phase; the next one starts from its export.
    """

    layers: int | None = None
    order: list[int] | None = None
    train_only_new: bool = False

    def __post_init__(self) -> None:
        if (self.layers is None) == (self.order is None):
            raise UserError(
                f"backbone.depth: layers {self.layers}, order {self.order}; give one of the two, or set "
                "depth to null"
            )


def layer_order(settings: DepthSettings, number: int) -> list[int]:
    """For each layer of the deeper model, the index of the old layer that it is or copies.

    Args:
        settings: What is asked for.
        number: Layers that there are.

    Raises:
        UserError: where that is not deeper, or old layers are missing or change places.
    """
    if settings.layers is not None:
        added = settings.layers - number
        if added < 1:
            raise UserError(
                f"backbone.depth.layers: {settings.layers}, but the model has {number} layers; give more"
            )
        copied = [((i + 1) * number - 1) // added for i in range(added)]
        return sorted([*range(number), *copied])
    order = settings.order or []
    if list(dict.fromkeys(order)) != list(range(number)) or len(order) == number:
        raise UserError(
            f"backbone.depth.order: {order}, but the model has {number} layers; name 0 to {number - 1}, each "
            "first in its order, and some again"
        )
    return order


def new_layers(order: list[int]) -> list[int]:
    """Indices of the copies in the deeper model."""
    return [i for i, old in enumerate(order) if old in order[:i]]


def deeper_config(config: PretrainedConfig, settings: DepthSettings) -> dict[str, Any]:
    """What changes in the configuration of a deeper model; names its new layers under `upscaled_layers`.

    Args:
        config: Configuration of the model as it is.
        settings: What is asked for.

    Raises:
        UserError: where the settings do not fit the model, or it has been up-scaled before.
    """
    values = config.to_dict()
    if values.get(UPSCALED_LAYERS):
        raise UserError(
            f"backbone.depth: this model was made deeper before, its layers {values[UPSCALED_LAYERS]} are "
            "new; set depth to null to go on with it"
        )
    key = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")  # GPT-2 has n_layer
    if key not in values:
        raise UserError(
            f"backbone.depth: the configuration of {config.model_type} models has no {key}, so its "
            "layers cannot be counted; set depth to null, or choose another model"
        )
    order = layer_order(settings, values[key])
    lists = {
        name: [value[old] for old in order]  # layer_types, no_rope_layers, …
        for name, value in values.items()
        if "layer" in name and isinstance(value, list) and len(value) == values[key]
    }
    return lists | {key: len(order), UPSCALED_LAYERS: new_layers(order)}


def deepen(model: PreTrainedModel, settings: DepthSettings) -> None:
    """Put copies between the layers of a model, in place; the function stays what it was.

    That is measured, by a forward pass over eight tokens before and one after, but for the meta device.

    Args:
        model: A dense decoder.
        settings: What is asked for.

    Raises:
        UserError: where the settings do not fit the model, it has been up-scaled before, a layer has not
            just one output projection each of attention and MLP, the function would change, or an export
            would come back as another model.
    """
    changes = deeper_config(model.config, settings)
    layers = decoder_layers(model)
    order = layer_order(settings, len(layers))
    new = new_layers(order)
    # All layers go on sharing the model's configuration.
    deeper = [
        copy.deepcopy(layers[old], {id(model.config): model.config}) if index in new else layers[old]
        for index, old in enumerate(order)
    ]
    for index in new:
        _silence(deeper[index])
    before = _probe(model)
    del layers[:]
    layers.extend(deeper)
    model.config.update(changes)
    _settle(model, layers, order)
    _require_unchanged(before, _probe(model), layers[0])
    if settings.train_only_new:
        model.requires_grad_(False)
        for index in new:
            layers[index].requires_grad_(True)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of a model's layers, under whatever name.

    Raises:
        UserError: where it has none, or several that could be it.
    """
    number = model.config.num_hidden_layers
    found: dict[str, nn.ModuleList] = {}
    for path, module in model.base_model.named_modules():
        inner = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) == number and not inner:
            found[path] = module
    if len(found) != 1:
        raise UserError(
            f"backbone.depth: {type(model).__name__} has {len(found)} lists of {number} layers "
            f"({', '.join(found)}), not one; set depth to null, or choose another model"
        )
    return next(iter(found.values()))


def _silence(layer: nn.Module) -> None:
    """Zero what a layer adds to the residual stream."""
    for kind, names in _OUTPUTS.items():
        found: dict[str, nn.Module] = {}
        for path, module in layer.named_modules():
            parent, _, name = path.rpartition(".")
            if name in names and ("att" in parent) == (kind == "attention"):
                found[path] = module
        if len(found) != 1 or not all(isinstance(module, nn.Linear | Conv1D) for module in found.values()):
            raise UserError(
                f"backbone.depth: a layer {type(layer).__name__} has {len(found)} output projections of its "
                f"{kind} ({', '.join(found or names)}), not one that is linear; only dense decoders can be "
                "made deeper"
            )
        for parameter in next(iter(found.values())).parameters():
            nn.init.zeros_(parameter)


def _settle(model: PreTrainedModel, layers: nn.ModuleList, order: list[int]) -> None:
    """Tell layers their new places, as the configuration would; it must describe all the rest as it is."""
    with torch.device("meta"):
        twin = AutoModelForCausalLM.from_config(copy.deepcopy(model.config))
    shapes, expected = ({name: p.shape for name, p in each.named_parameters()} for each in (model, twin))
    if differing := shapes.items() ^ expected.items():
        raise _unlike(layers, min(differing)[0])
    for index, (layer, built) in enumerate(zip(layers, decoder_layers(twin), strict=True)):
        for module, other in zip(layer.modules(), built.modules(), strict=True):
            for name, own, value in _differences(module, other):
                is_place = not isinstance(value, bool) and (own, value) == (order[index], index)
                if not is_place:  # of its keys and values in a cache: layer_idx, layer_id, …
                    raise _unlike(layers, name)
                setattr(module, name, value)


def _differences(module: nn.Module, built: nn.Module) -> list[tuple[str, Any, Any]]:
    """Plain attributes of two modules that differ: name, value of the first, value of the second."""
    own = vars(module)
    return [
        (name, own.get(name), value)
        for name, value in vars(built).items()
        if isinstance(value, bool | int | float | str) and name not in _PASSING and own.get(name) != value
    ]


def _unlike(layers: nn.ModuleList, name: str) -> UserError:
    return UserError(
        f"backbone.depth: in a layer {type(layers[0]).__name__} {name} depends on its place or on the number "
        "of layers; set depth to null, or choose another model"
    )


@torch.no_grad()
def _probe(model: PreTrainedModel) -> Tensor | None:
    """Final hidden states of a few tokens; None where there are no weights."""
    table = model.get_input_embeddings().weight
    if table.is_meta:
        return None
    training = model.training
    tokens = torch.arange(8).unsqueeze(0) % len(table)
    hidden: Tensor = model.eval().base_model(input_ids=tokens, use_cache=False).last_hidden_state
    model.train(training)
    return hidden


def _require_unchanged(before: Tensor | None, after: Tensor | None, layer: nn.Module) -> None:
    if before is None or after is None:
        return
    slack = 4 * torch.finfo(before.dtype).eps * before.abs().max().item()
    if not torch.allclose(after, before, rtol=0, atol=slack, equal_nan=True):
        raise UserError(
            f"backbone.depth: a copied layer {type(layer).__name__} changes the function although its output "
            "projections are zero; set depth to null, or choose another model"
        )
