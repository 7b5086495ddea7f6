"""Agents of known error rates give what the arithmetic says."""

import asyncio

import pytest

from benchmarks import _agents


@pytest.mark.parametrize(
    ("arm", "errors", "precision", "kept"),
    [
        ("single", _agents.Errors(0.6, 0, 0, 0, 0), 0.6, 1.0),
        ("loop", _agents.Errors(1, 0, 0, 0, 0), 1.0, 1.0),
        ("loop", _agents.Errors(0, 1, 0, 0, 0), 1.0, 1.0),
        ("loop", _agents.Errors(0, 0.5, 0, 0, 0), 1.0, 0.875),  # one of three rounds mends it
        ("loop", _agents.Errors(0.5, 0, 0, 1, 0), 0.5, 1.0),  # a critic that approves of all
        ("loop", _agents.Errors(1, 0, 0, 0, 0.5), 1.0, 0.875),
        ("filtered", _agents.Errors(0.5, 0, 0, 0, 0), 1.0, 0.875),
    ],
)
def test_arms(
    monkeypatch: pytest.MonkeyPatch, arm: str, errors: _agents.Errors, precision: float, kept: float
) -> None:
    monkeypatch.setattr(_agents, "QUERIES", 400)
    found = _agents.summary(asyncio.run(_agents.arm(arm, errors)))
    assert found["precision"] == pytest.approx(precision, abs=0.06)
    assert found["kept"] == pytest.approx(kept, abs=0.06)
    assert found["interval_yield"][0] <= found["right_per_million_tokens"] <= found["interval_yield"][1]


def test_tokens_are_those_of_all_agents() -> None:
    result = asyncio.run(_agents.arm("loop", _agents.Errors(1, 0, 0, 0, 0)))[0]
    assert result.tokens == (80 + 60 + 120) + (80 + 60 + 120 + 600) + (80 + 60 + 600 + 40)
