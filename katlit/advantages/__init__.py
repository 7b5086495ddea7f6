"""Advantages of the judge segment and of the answer segment: an estimator a file."""

from katlit.advantages.base import AdvantageEstimator, Groups, Rollouts
from katlit.advantages.grpo import GRPO
from katlit.advantages.hipo import HiPO
from katlit.advantages.process import Process

__all__ = ["GRPO", "AdvantageEstimator", "Groups", "HiPO", "Process", "Rollouts"]
