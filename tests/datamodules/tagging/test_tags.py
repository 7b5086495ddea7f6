"""Votes on a query, merged."""

from typing import Any

import pytest

from katlit.datamodules.tagging import Tags, merge_tags

BASE: dict[str, Any] = {
    "needs_reasoning": True, "domain": "math", "difficulty": 3, "checkable": True, "how": "math",
}  # fmt: skip


def vote(**changes: Any) -> Tags:
    return Tags(**BASE | changes)


OPEN = {"checkable": False, "how": "none"}


@pytest.mark.parametrize(
    ("votes", "merged", "ties"),
    [
        ([vote()], vote(), ()),
        ([vote(), vote(), vote(domain="code", difficulty=5)], vote(), ()),
        ([vote(), vote(needs_reasoning=False)], vote(needs_reasoning=False), ("needs_reasoning",)),
        ([vote(difficulty=4), vote(difficulty=2)], vote(difficulty=2), ("difficulty",)),
        ([vote(domain="math"), vote(domain="code")], vote(domain="code"), ("domain",)),
        ([vote(), vote(**OPEN)], vote(**OPEN), ("checkable",)),
        # Those who say that nothing can be checked have no vote on how.
        ([vote(how="text"), vote(how="text"), vote(how="math"), vote(**OPEN)], vote(how="text"), ()),
        ([vote(how="text"), vote(how="math"), vote(**OPEN)], vote(how="math"), ("how",)),
        # Many open votes of one kind outnumber no single way of checking, but lose on whether.
        (
            [vote(**OPEN), vote(**OPEN), vote(how="math"), vote(how="text"), vote(how="calls")],
            vote(how="calls"),
            ("how",),
        ),
        ([vote(difficulty=1), vote(difficulty=5), vote(difficulty=5)], vote(difficulty=5), ()),
    ],
)
def test_each_field_is_voted_on_by_itself(votes: list[Tags], merged: Tags, ties: tuple[str, ...]) -> None:
    result = merge_tags(votes)
    assert (result.tags, result.ties, result.votes) == (merged, ties, len(votes))
    assert merge_tags(votes[::-1]) == result


@pytest.mark.parametrize(
    ("votes", "spread", "think"),
    [
        ([vote()] * 4, 0.0, 1.0),
        ([vote(), vote(), vote(), vote(needs_reasoning=False)], 1 / 20, 0.75),
        ([vote(), vote(needs_reasoning=False, domain="code", difficulty=1, **OPEN)], 0.5, 0.5),
    ],
)
def test_the_spread_is_the_share_that_differs(votes: list[Tags], spread: float, think: float) -> None:
    assert merge_tags(votes).spread == pytest.approx(spread)
    assert merge_tags(votes).think == think


@pytest.mark.parametrize(
    "wrong",
    [
        {"difficulty": 0},
        {"difficulty": 6},
        {"domain": ""},
        {"how": "magic"},
        {"how": "none"},
        {"checkable": False},
    ],
)
def test_values_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not the tags|disagree"):
        vote(**wrong)


def test_no_votes_are_refused() -> None:
    with pytest.raises(ValueError, match="no vote to merge"):
        merge_tags([])
