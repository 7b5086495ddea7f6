"""Which queries have other agents than the rest: the tags choose who answers (our choice)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from katlit.datamodules.agents.roles import Part, Role, Team, require_roles
from katlit.datamodules.tagging import Tags
from katlit.datamodules.tagging.tags import HARDEST
from katlit.errors import UserError, require


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class Route:
    """Gives queries of some tags other agents; at least one.

    Attributes:
        domains: Domains of the queries; all if none are given.
        easiest: Least difficulty.
        hardest: Greatest difficulty.
        solver: Who drafts; null: the agent of all queries, here and below.
        thinker: Who makes a full chain of thought of the draft.
        answerer: Who answers directly.
    """

    domains: list[str] = field(default_factory=list)
    easiest: int = 1
    hardest: int = HARDEST
    solver: Role | None = None
    thinker: Role | None = None
    answerer: Role | None = None

    def __post_init__(self) -> None:
        """Refuse a range of difficulties that holds none, and a route that changes nothing."""
        possible = 1 <= self.easiest <= self.hardest <= HARDEST
        told = f"{self.easiest} to {self.hardest}"
        require(possible, "data.labeller.routes", told, f"difficulties from 1 to {HARDEST}")
        if not self.roles():
            raise UserError("data.labeller.routes: one names no agent; give a solver, thinker or answerer")

    def roles(self) -> dict[Part, Role]:
        """Return the agents that it names."""
        named = {Part.SOLVER: self.solver, Part.THINKER: self.thinker, Part.ANSWERER: self.answerer}
        return require_roles(named)

    def settings(self) -> dict[str, Any]:
        """Return the tags of its queries."""
        domains = sorted({name.strip().casefold() for name in self.domains})
        return {"domains": domains, "difficulties": [self.easiest, self.hardest]}

    def takes(self, tags: Tags) -> bool:
        """Tell whether a query of these tags is one of its own."""
        in_domain = not self.domains or tags.domain in self.settings()["domains"]
        return in_domain and self.easiest <= tags.difficulty <= self.hardest


def teams_of(team: Team, routes: Sequence[Route]) -> list[Team]:
    """Return the team of all queries, then that of each route."""
    return [team, *(replace(team, roles=team.roles | route.roles()) for route in routes)]


def route_of(routes: Sequence[Route], tags: Tags) -> int:
    """Return the place of a query in `teams_of`: that of the first route that takes it, else 0."""
    return next((number for number, route in enumerate(routes, start=1) if route.takes(tags)), 0)
