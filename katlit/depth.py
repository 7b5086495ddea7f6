"""Depth up-scaling: a deeper model that computes the same, from one whose layers are copied (recipe §3).

KAT-V1's 40B model has the shape of Qwen2.5-32B with 80 layers instead of 64. How the new ones start is not
published. Ours start as LLaMA Pro's (arXiv 2401.02415, §3.2): copies of old layers, between the old ones,
with their two output projections zeroed, so that each adds nothing to the residual stream until it is
trained.
"""

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from katlit.errors import UserError

_OUTPUTS = ("o_proj", "down_proj")  # what a layer's attention and its MLP add to the residual stream
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


def deeper_config(config: dict[str, Any], settings: DepthSettings) -> dict[str, Any]:
    """What changes in the configuration of a deeper model; names its new layers under `upscaled_layers`.

    Args:
        config: A Hugging Face configuration, as a dictionary.
        settings: What is asked for.

    Raises:
        UserError: where the settings do not fit the model, or it has been up-scaled before.
    """
    if config.get(UPSCALED_LAYERS):
        raise UserError(
            f"backbone.depth: this model was made deeper before, its layers {config[UPSCALED_LAYERS]} are "
            "new; set depth to null to go on with it"
        )
    number = config["num_hidden_layers"]
    order = layer_order(settings, number)
    lists = {
        name: [value[old] for old in order]  # layer_types, no_rope_layers, …
        for name, value in config.items()
        if "layer" in name and isinstance(value, list) and len(value) == number
    }
    return lists | {"num_hidden_layers": len(order), UPSCALED_LAYERS: new_layers(order)}


def deepen(model: PreTrainedModel, layers: nn.ModuleList, settings: DepthSettings) -> None:
    """Put copies between the layers of a model, in place; the function stays what it was.

    Args:
        model: A dense Llama-like decoder.
        layers: Its layers.
        settings: What is asked for.

    Raises:
        UserError: where the settings do not fit the model, it has been up-scaled before, or a layer has not
            just one output projection each of attention and MLP.
    """
    changes = deeper_config(model.config.to_dict(), settings)
    order = layer_order(settings, len(layers))
    new = new_layers(order)
    # All layers go on sharing the model's configuration.
    deeper = [
        copy.deepcopy(layers[old], {id(model.config): model.config}) if index in new else layers[old]
        for index, old in enumerate(order)
    ]
    for index in new:
        _silence(deeper[index])
    for index, layer in enumerate(deeper):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # the place of its keys and values in a cache
                setattr(module, "layer_idx", index)  # noqa: B010 (mypy takes it for a submodule)
    del layers[:]
    layers.extend(deeper)
    model.config.update(changes)
    if settings.train_only_new:
        model.requires_grad_(False)
        for index in new:
            layers[index].requires_grad_(True)


def _silence(layer: nn.Module) -> None:
    """Zero what a layer adds to the residual stream."""
    for name in _OUTPUTS:
        found = [module for path, module in layer.named_modules() if path.rpartition(".")[2] == name]
        if len(found) != 1 or not isinstance(found[0], nn.Linear):
            raise UserError(
                f"backbone.depth: a layer {type(layer).__name__} has {len(found)} linear modules {name}, not "
                "one; only dense Llama-like decoders can be made deeper"
            )
        for parameter in found[0].parameters():
            nn.init.zeros_(parameter)
