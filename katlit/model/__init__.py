"""The model: the backbone that all stages share, and what is done to its weights."""

from katlit.model.backbone import Backbone, HiddenStates
from katlit.model.depth import DepthSettings
from katlit.model.lora import LoraSettings

__all__ = [
    "Backbone",
    "DepthSettings",
    "HiddenStates",
    "LoraSettings",
]
