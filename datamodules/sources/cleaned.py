"""Another source's queries, without those that stand twice or in an evaluation."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from katlit.batch import Prompt
from katlit.datamodules.cleaning.duplicates import exact_duplicates, near_duplicates
from katlit.datamodules.cleaning.leaks import leaks
from katlit.datamodules.cleaning.words import Question
from katlit.datamodules.sources.base import PromptSource, SourceAround
from katlit.errors import UserError, require
from katlit.output import replace_file, require_writable

logger = logging.getLogger(__name__)

DUPLICATE, NEAR, LEAK = "duplicate", "near duplicate", "in an evaluation"


class Removal(NamedTuple):
    """Why a query was left out."""

    id: str
    where: str
    reason: str
    of: str  # where the other one stands
    share: float  # how much of it is the same


class CleanedPrompts(SourceAround):
    """Another source's queries without duplicates, near duplicates and questions of evaluations (our choice).

    The first of several stays. Letters' case, punctuation and white space make no difference, other numbers
    and other references do: a question with another number is another question.

    Args:
        source: The queries.
        evaluation: Sets of queries that are evaluated on, and so must not be trained on.
        near: From which Jaccard index of their pairs of words two queries are near duplicates; 1 keeps them.
        leak: From which share of an evaluation's question in it, by runs of five words, a query is left out.
        report: A file, JSON Lines, that says of each query that was left out why, and of which it is a copy.
    """

    def __init__(
        self,
        source: PromptSource,
        evaluation: list[PromptSource] | None = None,
        near: float = 0.75,
        leak: float = 0.7,
        report: str | None = None,
    ) -> None:
        require(0 < near <= 1, "CleanedPrompts.near", near, "a share above 0, at most 1")
        require(0 < leak <= 1, "CleanedPrompts.leak", leak, "a share above 0, at most 1")
        super().__init__(source)
        self.evaluation = evaluation or []
        self.near = near
        self.leak = leak
        self.report = report

    def load(self) -> list[Prompt]:
        """Load the queries, and leave out what is not new.

        Raises:
            UserError: as the sources do, and where nothing is left.
        """
        prompts = self.source.read()
        removals = self._removals([Question.of(prompt) for prompt in prompts])
        left = [prompt for place, prompt in enumerate(prompts) if place not in removals]
        self._say(len(prompts), list(removals.values()))
        if not left:
            raise UserError(
                f"{self.name}: all {len(prompts)} queries are copies of others or of an evaluation's; "
                "raise CleanedPrompts.leak, or give other evaluation sets"
            )
        return left

    def _removals(self, questions: Sequence[Question]) -> dict[int, Removal]:
        """What is left out, by its place."""
        found: dict[int, Removal] = {}

        def leave_out(places: Mapping[int, tuple[str, float]], reason: str) -> None:
            for place, (other, share) in places.items():
                name = questions[place].prompt["id"]
                found[place] = Removal(name, self.place(name), reason, other, round(share, 3))

        same = exact_duplicates(questions).items()
        leave_out({place: (self._at(questions[of]), 1.0) for place, of in same}, DUPLICATE)
        places, evaluated = [], []
        for source in self.evaluation:
            loaded = source.read()
            evaluated += [Question.of(prompt) for prompt in loaded]
            places += [source.place(prompt["id"]) for prompt in loaded]
        kept = [place for place in range(len(questions)) if place not in found]
        held = leaks([questions[place] for place in kept], evaluated, self.leak)
        leave_out({kept[place]: (places[of], share) for place, (of, share) in held.items()}, LEAK)
        if self.near < 1:
            kept = [place for place in kept if place not in found]
            alike = near_duplicates([questions[place] for place in kept], self.near)
            leave_out(
                {kept[place]: (self._at(questions[kept[of]]), share) for place, (of, share) in alike.items()},
                NEAR,
            )
        return found

    def _at(self, question: Question) -> str:
        return self.place(question.prompt["id"])

    def _say(self, number: int, removals: Sequence[Removal]) -> None:
        counted = Counter(removal.reason for removal in removals)
        reasons = ", ".join(f"{counted[reason]} {reason}" for reason in (DUPLICATE, NEAR, LEAK))
        logger.info("%s: %d queries, %d left out (%s)", self.name, number, len(removals), reasons)
        if self.report is not None:
            lines = (json.dumps(removal._asdict(), ensure_ascii=False) + "\n" for removal in removals)
            require_writable(Path(self.report).parent, "CleanedPrompts.report")
            replace_file(Path(self.report), "".join(lines))
