"""What a tagger says of a query, and what several votes of one say together (our choice)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

MATH, TEXT, PROGRAM, CALLS, NONE = "math", "text", "program", "calls", "none"
WAYS = (MATH, TEXT, PROGRAM, CALLS, NONE)  # of checking an answer
HARDEST = 5


@dataclass(frozen=True)
class Tags:
    """What one vote says of a query.

    Attributes:
        needs_reasoning: Whether an answer takes several steps of reasoning.
        domain: The field that the query is of, in lower case.
        difficulty: From 1, which takes no effort, to 5, for experts.
        checkable: Whether an answer can be checked by a program.
        how: What checks it: `math` compares numbers and formulas, `text` short texts, `program` runs tests,
            `calls` compares calls of tools; `none` where it is not checkable.
    """

    needs_reasoning: bool
    domain: str
    difficulty: int
    checkable: bool
    how: str

    def __post_init__(self) -> None:
        """Refuse values that are none, and a check of what cannot be checked.

        Raises:
            ValueError: naming the value.
        """
        if not self.domain or not 1 <= self.difficulty <= HARDEST or self.how not in WAYS:
            raise ValueError(f"not the tags of a query: {self}")
        if self.checkable is (self.how == NONE):
            raise ValueError(f"checkable and how disagree: {self}")


@dataclass(frozen=True)
class MergedTags:
    """What all votes on a query say together.

    Attributes:
        tags: What most of them say, field by field.
        spread: Disagreement: the share of votes that differ from `tags`, averaged over the fields; 0 where
            all agree. A field to select by.
        ties: Names of the fields in which no value had more votes than each other one.
        think: The share of votes for reasoning.
        votes: How many votes there are.
    """

    tags: Tags
    spread: float
    ties: tuple[str, ...]
    think: float
    votes: int


def merge_tags(votes: Sequence[Tags]) -> MergedTags:
    """Let the votes on a query decide, each field by itself.

    Of values with equally many votes the one that costs or promises less is taken: no reasoning, the lower
    difficulty, not checkable; else the first by name. Only those who agree with the majority on whether an
    answer can be checked have a vote on how.

    Raises:
        ValueError: without a vote.
    """
    if not votes:
        raise ValueError("no vote to merge: ask again, or take the tags of a RuleTagger")
    checkable, _ = _winner([vote.checkable for vote in votes])
    electorate = {"how": [vote for vote in votes if vote.checkable is checkable]}
    won: dict[str, Any] = {}
    ties = []
    for field in fields(Tags):
        cast = [getattr(vote, field.name) for vote in electorate.get(field.name, votes)]
        won[field.name], tied = _winner(cast)
        ties += [field.name] if tied else []
    tags = Tags(**won)
    agreeing = sum(
        said == most for vote in votes for said, most in zip(astuple(vote), astuple(tags), strict=True)
    )
    think = sum(vote.needs_reasoning for vote in votes) / len(votes)
    return MergedTags(tags, 1 - agreeing / (len(votes) * len(won)), tuple(ties), think, len(votes))


def _winner(cast: Sequence[Any]) -> tuple[Any, bool]:
    """The value with the most votes, the least of several, and whether there were several."""
    counts = Counter(cast)
    most = max(counts.values())
    first, *others = sorted(value for value, count in counts.items() if count == most)
    return first, bool(others)
