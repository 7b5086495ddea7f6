"""Models without weights, on the meta device, from the settings that name them."""

from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.depth import deeper_config
from katlit.model.experts import check_experts
from katlit.model.lora import add_adapters
from katlit.model.pretrained import build_model, load_config
from katlit.model.shape import Adapters, Shape, adapters_of, shape_of

_BARE = "backbone.config"


def backbone_shape(backbone: Backbone) -> Shape:
    """Shape of the model that a backbone would materialise; reads its configuration and its tokenizer.

    A bare configuration that names no tokenizer is taken by its own `vocab_size`.

    Raises:
        UserError: where it would not materialise: no model is named, or one whose experts are not known.
    """
    model = _outline_of(backbone)
    check_experts(model)
    depth = backbone.mtp_depth
    if depth is None:
        depth = getattr(model.config, "num_nextn_predict_layers", 0) or 0 if backbone.init_from else 0
    return shape_of(model, depth)


def backbone_adapters(backbone: Backbone) -> Adapters | None:
    """What LoRA would add to the model that a backbone would materialise; None without it.

    Raises:
        UserError: where the model has no such layers, or as `backbone_shape`.
    """
    if backbone.lora is None:
        return None
    model = _outline_of(backbone)
    rows = backbone.adapted_rows(backbone.lora) if _has_tokenizer(backbone) else []
    with torch.device("meta"):
        add_adapters(model, backbone.lora, rows)
    return adapters_of(model)


def _has_tokenizer(backbone: Backbone) -> bool:
    return (backbone.init_from or backbone.model or backbone.tokenizer) is not None


def _outline_of(backbone: Backbone) -> PreTrainedModel:
    source = backbone.init_from or backbone.model
    if source is None and backbone.config is None:
        raise UserError("backbone: give model (a name or directory), config or init_from")
    key = "backbone.init_from" if backbone.init_from else "backbone.model"
    settings: dict[str, Any] = load_config(source, key).to_dict() if source else dict(backbone.config or {})
    if backbone.depth is not None:
        config = AutoConfig.for_model(**settings)
        settings = config.to_dict() | deeper_config(config, backbone.depth)
    tokens = len(backbone.load_tokenizer().tokenizer) if _has_tokenizer(backbone) else 0
    return _outline(settings, tokens, key if source else _BARE)


def model_shape(source: str, key: str) -> Shape:
    """Shape of a model by its name or directory; reads its configuration only.

    Args:
        source: A directory or a name on the hub.
        key: The setting that names it, for the message.
    """
    return shape_of(_outline(load_config(source, key).to_dict(), 0, key))


def config_shape(config: Any, mtp_depth: int = 0) -> Shape:
    """Shape of a model by its Hugging Face configuration."""
    return shape_of(_outline(config.to_dict(), 0, _BARE), mtp_depth)


def _outline(settings: dict[str, Any], tokens: int, key: str) -> PreTrainedModel:
    kind = settings.get("model_type")
    vocabulary = settings.get("vocab_size", 0)
    if kind and not vocabulary and not tokens:
        vocabulary = AutoConfig.for_model(kind).vocab_size
    with torch.device("meta"):
        return build_model(settings, max(vocabulary, tokens), key, "float32", "sdpa")
