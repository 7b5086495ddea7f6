"""Synthesis by agents: a solver drafts, a thinker expands, a critic sends back (recipe §2)."""

from katlit.datamodules.agents.roles import Role
from katlit.datamodules.agents.three_agents import ThreeAgents

__all__ = ["Role", "ThreeAgents"]
