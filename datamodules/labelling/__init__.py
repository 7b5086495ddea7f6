"""Labelling: which mode each query gets, and the response that is learnt."""

from katlit.datamodules.labelling.chat_model import ChatModel
from katlit.datamodules.labelling.dual_regime import DualRegimeSettings
from katlit.datamodules.labelling.majority_vote import VoteSettings

__all__ = [
    "ChatModel",
    "DualRegimeSettings",
    "VoteSettings",
]
