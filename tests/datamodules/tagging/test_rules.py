"""Tags by plain rules."""

from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules.tagging import RuleTagger, Tags, verifier_of
from katlit.errors import UserError
from katlit.rewards import AccuracyReward


def prompt(text: str = "?", **fields: Any) -> Prompt:
    made: Any = {
        "id": "a", "messages": [{"role": "user", "content": text}], "reference": "", "verifier": "match",
        "domain": "", "difficulty": 0, "metadata": {},
    }  # fmt: skip
    made.update(fields)
    return made  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("given", "tags"),
    [
        (prompt(domain="Algebra", difficulty=4), Tags(True, "algebra", 4, False, "none")),
        (prompt(difficulty=2, domain="gsm8k"), Tags(False, "gsm8k", 2, False, "none")),
        (prompt(difficulty=12, domain="d"), Tags(True, "d", 5, False, "none")),
        (prompt(difficulty=-1, domain="d"), Tags(False, "d", 1, False, "none")),
        (prompt("Who wrote Faust?", reference="Goethe"), Tags(False, "other", 1, True, "text")),
        (prompt("Who wrote Faust?", reference="w " * 11), Tags(False, "other", 1, False, "none")),
        (prompt("How many are left of 3?", reference="12"), Tags(False, "math", 1, True, "math")),
        (prompt("?", reference="$1,200.50"), Tags(False, "other", 1, True, "math")),
        (prompt("?", reference="so it is #### 7"), Tags(False, "other", 1, True, "math")),
        (prompt("Prove that 2 + 2 is even"), Tags(True, "math", 3, False, "none")),
        (
            prompt("Write a function", reference="{}", verifier="code"),
            Tags(False, "code", 1, True, "program"),
        ),
        (prompt("?", verifier="code"), Tags(False, "other", 1, False, "none")),
        (prompt("?", reference="[]", verifier="tool_calls"), Tags(False, "other", 1, True, "calls")),
        (prompt("?", verifier="chain_sum"), Tags(False, "other", 1, True, "text")),
        (prompt("1, 2, 3, 4, 5: what sum?"), Tags(True, "math", 3, False, "none")),
    ],
)
def test_what_rules_say(given: Prompt, tags: Tags) -> None:
    assert RuleTagger().tag(given) == tags


def test_the_border_can_be_moved() -> None:
    assert RuleTagger(think_from=2).tag(prompt(difficulty=2)).needs_reasoning
    with pytest.raises(UserError, match=r"think_from: 6; give 1 to 5"):
        RuleTagger(think_from=6)


@pytest.mark.parametrize(
    ("given", "how", "verifier"),
    [
        (prompt(reference="12"), "math", "math"),
        (prompt(reference="12"), "text", "match"),
        (prompt(reference="12"), "none", None),
        (prompt(), "math", None),  # nothing to compare with
        (prompt(reference="not tests"), "program", "match"),
        (prompt(reference='{"asserts": ["assert f(1) == 2"], "names": ["f"]}'), "program", "code"),
        (prompt(reference='{"name": "weather", "arguments": {}}'), "calls", "tool_calls"),
        (prompt(reference="12", verifier="math"), "none", "math"),  # what the prompt says stays
        (prompt(reference="12", verifier="math"), "text", "math"),
        (prompt(verifier="math"), "math", None),
    ],
)
def test_tags_choose_the_verifier(given: Prompt, how: str, verifier: str | None) -> None:
    tags = Tags(True, "math", 3, how != "none", how)
    assert verifier_of(given, tags, AccuracyReward().reference_problem) == verifier
