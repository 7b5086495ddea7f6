"""The figures of an evaluation, counted by hand."""

from typing import Any

import pytest

from katlit.metrics.evaluation import Answered, summarize


def answered(
    policy: Any, number: int, correct: bool, tokens: int, mode: str | None, **settings: Any
) -> Answered:
    settings = {"family": "a", "difficulty": 1, "valid": True, "truncated": False} | settings
    return Answered(f"p{number}", policy=policy, mode=mode, correct=correct, tokens=tokens, **settings)


RESPONSES = [
    answered("auto", 0, True, 10, "off"),
    answered("auto", 1, True, 40, "on"),
    answered("auto", 2, False, 10, "off", difficulty=2),
    answered("auto", 3, False, 20, None, valid=False, truncated=True, family="b", unjudged=True),
    answered("on", 0, True, 40, "on"),
    answered("on", 1, True, 40, "on"),
    answered("on", 2, True, 60, "on", difficulty=2),
    answered("on", 3, False, 60, "on", family="b"),
    answered("off", 0, True, 10, "off"),
    answered("off", 1, False, 10, "off"),
    answered("off", 2, False, 10, "off", difficulty=2),
    answered("off", 3, False, 10, "off", family="b"),
]


def test_by_hand() -> None:
    results = summarize(list(reversed(RESPONSES)))
    auto = results["policies"]["auto"]
    expected = {
        "accuracy": 0.5,
        "mean_tokens": 20,
        "think_rate": 0.25,
        "format_valid": 0.75,
        "truncated": 0.25,
        "unjudged": 0.25,
    }
    assert expected.items() <= auto.items()
    assert auto["accuracy_ci"] == [0, 1]
    assert results["policies"]["on"]["mean_tokens"] == 50
    headline = results["headline"]
    assert headline["token_ratio"] == pytest.approx(0.4)
    assert headline["accuracy_gap"] == pytest.approx(-0.25)
    assert headline["token_ratio_ci"][0] <= 0.4 <= headline["token_ratio_ci"][1]
    assert headline["accuracy_gap_ci"] == [-0.75, 0]  # on is never worse, prompt by prompt
    # p0: off solves it, auto chose off; p1: only on does, auto chose on; p2: only on, auto off; p3: none
    assert results["mode_accuracy"] == pytest.approx(2 / 3)
    levels = [row for row in results["by_difficulty"] if row["policy"] == "auto"]
    assert [(row["family"], row["difficulty"], row["count"]) for row in levels] == [
        ("a", 1, 2),
        ("a", 2, 1),
        ("b", 1, 1),
    ]
    assert levels[0]["think_rate"] == 0.5
    assert levels[0]["accuracy"] == 1
    assert levels[0]["mean_tokens"] == 25


def test_missing_policies_leave_their_comparisons_out() -> None:
    results = summarize([response for response in RESPONSES if response.policy != "on"])
    assert results["headline"] is None
    assert results["mode_accuracy"] is None
    assert set(results["policies"]) == {"auto", "off"}
