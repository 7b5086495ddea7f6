"""Labelling: which mode each query gets, and the response that is learnt."""

from katlit.datamodules.labelling.base import Labeller
from katlit.datamodules.labelling.chat_model import ChatModel
from katlit.datamodules.labelling.dual_regime import DualRegime
from katlit.datamodules.labelling.majority_vote import MajorityVote

__all__ = [
    "ChatModel",
    "DualRegime",
    "Labeller",
    "MajorityVote",
]
