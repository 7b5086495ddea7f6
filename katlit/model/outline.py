"""Models without weights, on the meta device, from the settings that name them."""

from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.depth import deeper_config
from katlit.model.experts import check_experts
from katlit.model.pretrained import build_model, load_config
from katlit.model.shape import Shape, shape_of

_BARE = "backbone.config"


def backbone_shape(backbone: Backbone) -> Shape:
    """Shape of the model that a backbone would materialise; reads its configuration and its tokenizer.

    A bare configuration that names no tokenizer is taken by its own `vocab_size`.

    Raises:
        UserError: where it would not materialise: no model is named, or one whose experts are not known.
    """
    source = backbone.init_from or backbone.model
    if source is None and backbone.config is None:
        raise UserError("backbone: give model (a name or directory), config or init_from")
    key = "backbone.init_from" if backbone.init_from else "backbone.model"
    settings: dict[str, Any] = load_config(source, key).to_dict() if source else dict(backbone.config or {})
    if backbone.depth is not None:
        config = AutoConfig.for_model(**settings)
        settings = config.to_dict() | deeper_config(config, backbone.depth)
    named = source is not None or backbone.tokenizer is not None
    tokens = len(backbone.load_tokenizer().tokenizer) if named else 0
    depth = backbone.mtp_depth
    if depth is None:
        depth = settings.get("num_nextn_predict_layers") or 0 if backbone.init_from else 0
    model = _outline(settings, tokens, key if source else _BARE)
    check_experts(model)
    return shape_of(model, depth)


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
