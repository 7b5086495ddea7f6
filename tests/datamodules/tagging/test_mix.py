"""Which queries think, and who answers them."""

from collections import Counter

import pytest

from katlit.datamodules.tagging import MergedTags, Tags, choose_modes, merge_tags
from katlit.errors import UserError
from katlit.text.protocol import Mode

ON, OFF = Mode.THINK_ON, Mode.THINK_OFF


def merged(think: int, votes: int = 4, domain: str = "math", difficulty: int = 3) -> MergedTags:
    return merge_tags([Tags(vote < think, domain, difficulty, True, "math") for vote in range(votes)])


@pytest.mark.parametrize(
    ("tags", "share", "modes"),
    [
        ([], 0.5, []),
        ([merged(1), merged(4), merged(2), merged(3)], 0.5, [OFF, ON, OFF, ON]),
        ([merged(4), merged(4), merged(4)], 0.0, [OFF, OFF, OFF]),
        ([merged(0), merged(0)], 1.0, [ON, ON]),
        ([merged(2, difficulty=1), merged(2, difficulty=5)], 0.5, [OFF, ON]),
    ],
)
def test_the_clearest_votes_think(tags: list[MergedTags], share: float, modes: list[Mode]) -> None:
    assert choose_modes(tags, think_share=share) == modes


def test_the_share_is_the_papers_and_each_domains_own() -> None:
    tags = [merged(2, domain=domain) for domain in ("math", "code", "advice") for _ in range(1000)]
    assert Counter(choose_modes(tags))[ON] == 1044
    chosen = choose_modes(tags, {"math": 0.9, "advice": 0.0})
    thinking = Counter(t.tags.domain for t, mode in zip(tags, chosen, strict=True) if mode is ON)
    assert thinking == {"math": 900, "code": 348}


def test_small_domains_add_up_to_the_share() -> None:
    tags = [merged(2, domain=f"domain {number}") for number in range(1000)]
    assert Counter(choose_modes(tags))[ON] == 348


def test_lots_depend_on_the_seed_alone() -> None:
    tags = [merged(2)] * 100
    assert choose_modes(tags, seed=1) == choose_modes(tags, seed=1)
    assert choose_modes(tags, seed=1) != choose_modes(tags, seed=2)


@pytest.mark.parametrize("shares", [{"math": 1.1}, {"math": -0.1}, {"other": float("nan")}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(UserError, match="a share from 0 to 1"):
        choose_modes([merged(2)], shares)
