"""Who the agents are: the model of each role, what it is told, and how much it may say."""

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from katlit.datamodules.agents import templates
from katlit.datamodules.tagging import QUESTION
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.errors import UserError, require
from katlit.text.protocol import Thinking

_SAMPLING = SamplingParameters()


class Part(StrEnum):
    """What an agent does; solver, thinker and critic are the paper's names."""

    TAGGER = "tagger"
    SOLVER = "solver"
    THINKER = "thinker"
    CRITIC = "critic"
    ANSWERER = "answerer"
    WRITER = "writer"


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class Role:
    """An agent: a model, its template and its budget.

    Attributes:
        model: Directory or name of the model, or `endpoint:NAME`.
        template: What it is told, with placeholders; null takes the default of its role.
        sampling: How it is sampled; `max_tokens` is its budget for one reply.
        engine: What it is reached by, such as a server of its own; null: the engine of the data.
    """

    model: str
    template: str | None = None
    sampling: SamplingParameters = _SAMPLING
    engine: RolloutEngine | None = None


# Default template, the placeholders that it may have, and those that it must have.
_TEMPLATES: dict[Part, tuple[str | None, tuple[str, ...], tuple[str, ...]]] = {
    Part.TAGGER: (QUESTION, ("question",), ("question",)),
    Part.SOLVER: (templates.SOLVER, ("question",), ("question",)),
    Part.THINKER: (
        templates.THINKER,
        ("question", "draft", "objections"),
        ("question", "draft", "objections"),
    ),
    Part.CRITIC: (
        templates.CRITIC,
        ("question", "think", "answer", "rubric"),
        ("question", "answer", "rubric"),
    ),
    Part.ANSWERER: (None, ("question",), ("question",)),  # the conversation as it is
    Part.WRITER: (templates.WRITER, ("question", "decision"), ("question", "decision")),
}
THINKING: dict[Part, Thinking] = {part: "on" if part is Part.THINKER else "off" for part in Part}


@dataclass(frozen=True, slots=True)
class Team:
    """The agents and their rules, apart from any engine.

    Attributes:
        roles: Who there is; without a solver the thinker has no draft, without a critic the verifier alone
            decides, without a writer default texts explain the modes.
        rubric: What the critic scores by.
        approve: Least score of what is kept, from 1 to 5.
        rounds: Most attempts of the thinker, and of the answerer.
        same_script: Whether replies must be in a script of the question or its reference.
        unsaid: Words that no chain of thought may have unless its question has them.
        seed: Seed of all sampling.
    """

    roles: dict[Part, Role]
    rubric: str = templates.RUBRIC
    approve: int = 4
    rounds: int = 3
    same_script: bool = True
    unsaid: tuple[str, ...] = ("draft", "objection", "objections")
    seed: int = 0
    texts: dict[Part, str | None] = field(init=False)

    def __post_init__(self) -> None:
        """Refuse templates and numbers that cannot be meant."""
        require(self.rounds >= 1, "rounds", self.rounds, "at least 1")
        require(1 <= self.approve <= 5, "approve", self.approve, "a score from 1 to 5")
        told = {}
        for part, (default, known, needed) in _TEMPLATES.items():
            given = self.roles[part].template if part in self.roles else None
            if given is not None:
                templates.check_template(given, f"data.labeller.{part}.template", known, needed)
            told[part] = default if given is None else given
        thinker = self.roles.get(Part.THINKER)
        if Part.SOLVER not in self.roles and thinker is not None and thinker.template is None:
            told[Part.THINKER] = None  # nothing to expand, so it reads the conversation as it is
        object.__setattr__(self, "texts", told)
        object.__setattr__(self, "unsaid", tuple(word.lower() for word in self.unsaid))

    def settings(self) -> dict[str, Any]:
        """Return all that changes what the agents say, but for the names of the models and their engines."""
        roles = {
            part.value: [self.texts.get(part, role.template), asdict(role.sampling)]
            for part, role in self.roles.items()
        }
        rules = {
            name: getattr(self, name)
            for name in ("rubric", "approve", "rounds", "same_script", "unsaid", "seed")
        }
        return {"roles": roles} | rules


def require_roles(roles: dict[Part, Role | None]) -> dict[Part, Role]:
    """Return the roles that are given.

    Raises:
        UserError: where one has no model.
    """
    given = {part: role for part, role in roles.items() if role is not None}
    for part, role in given.items():
        if not (role.model or "").strip():  # null, where another class has dropped what earlier files said
            raise UserError(f"data.labeller.{part}.model: not given; name the model of the {part}")
    return {part: replace(role, model=role.model.strip()) for part, role in given.items()}
