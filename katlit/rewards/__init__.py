"""Rewards: how good a response is, from its text alone."""

from katlit.rewards.base import Reward, Sample, Verdict, patient_verdicts_of, verdicts_of
from katlit.rewards.code.reward import CodeReward
from katlit.rewards.composite import AccuracyReward, CompositeReward, RewardBatch
from katlit.rewards.format import FormatReward
from katlit.rewards.language import LanguageReward
from katlit.rewards.length import LengthReward
from katlit.rewards.match import MatchReward
from katlit.rewards.math.reward import MathReward
from katlit.rewards.task import TaskReward
from katlit.rewards.tool_calls import ToolCallReward

__all__ = [
    "AccuracyReward",
    "CodeReward",
    "CompositeReward",
    "FormatReward",
    "LanguageReward",
    "LengthReward",
    "MatchReward",
    "MathReward",
    "Reward",
    "RewardBatch",
    "Sample",
    "TaskReward",
    "ToolCallReward",
    "Verdict",
    "patient_verdicts_of",
    "verdicts_of",
]
