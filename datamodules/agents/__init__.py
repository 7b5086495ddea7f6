"""Synthesis by agents: a solver drafts, a thinker expands, a critic sends back (recipe §2)."""

from katlit.datamodules.agents.roles import Part, Role, Team
from katlit.datamodules.agents.routes import Route
from katlit.datamodules.agents.synthesis import Ask, Outcome, Said, Verify, synthesize
from katlit.datamodules.agents.three_agents import ThreeAgents

__all__ = ["Ask", "Outcome", "Part", "Role", "Route", "Said", "Team", "ThreeAgents", "Verify", "synthesize"]
