from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules.labelling.engine_model import EngineModel
from katlit.engines.base import SamplingParameters
from katlit.errors import UserError
from katlit.text.protocol import Mode

SAMPLING = SamplingParameters(max_tokens=200)


def test_samples_are_sorted_by_prompt(
    models_root: Path, make_engine: Callable[..., Any], sums: list[Prompt]
) -> None:
    engine = make_engine(right=lambda question, mode, seed: seed != 13)
    with EngineModel(str(models_root / "ours"), engine, SAMPLING) as model:
        replies = model.sample(sums[:3], "on", [[10, 11], [12], [13, 14, 15]])
    parsed = [[reply.parsed for reply in each] for each in replies]
    assert [[each.answer for each in some] for some in parsed] == [["2", "2"], ["3"], ["5", "4", "4"]]
    assert all(each.valid and each.mode is Mode.THINK_ON for some in parsed for each in some)
    assert parsed[2][0].think == "1+3 = 5 ok"
    assert replies[0][0].tokens > 10
    assert (engine.started, engine.closed, model.skipped) == (["ours"], 1, 0)


def test_truncated_replies_are_not_valid(
    models_root: Path, make_engine: Callable[..., Any], sums: list[Prompt]
) -> None:
    with EngineModel(str(models_root / "ours"), make_engine(), SamplingParameters(max_tokens=4)) as model:
        ((reply,),) = model.sample(sums[:1], "on", [[0]])
    assert (reply.truncated, reply.parsed.valid, reply.tokens) == (True, False, 4)


def test_a_ballot_ends_at_the_mode_marker(
    models_root: Path, make_engine: Callable[..., Any], sums: list[Prompt]
) -> None:
    engine = make_engine(wants=lambda question: Mode.THINK_ON if "4" in question else Mode.THINK_OFF)
    with EngineModel(str(models_root / "ours"), engine, SAMPLING) as model:
        votes = model.ballots(sums[2:4], [[0, 1, 2], [3, 4]])
    assert [[ballot.mode.value for ballot in ballots] for ballots in votes] == [["off"] * 3, ["on"] * 2]
    assert votes[1][0].reason == "because of 1+4"
    short = EngineModel(str(models_root / "ours"), engine, SAMPLING, ballot_tokens=3)
    told = r"^data\.ballot_tokens: 3; none of the first 2 ballots of '.*' is a vote, 2 were cut there"
    with short, pytest.raises(UserError, match=told):
        short.ballots(sums[2:4], [[0], [1]])


def test_prompts_that_do_not_fit_are_skipped_and_counted(
    models_root: Path, make_engine: Callable[..., Any], sums: list[Prompt]
) -> None:
    engine = make_engine(context=400)
    long: Prompt = {**sums[0], "messages": [{"role": "user", "content": "x" * 400}]}
    with EngineModel(str(models_root / "ours"), engine, SAMPLING) as model:
        replies = model.sample([long, sums[0]], "off", [[0, 1], [2, 3]])
        assert model.ballots([long], [[0]]) == [[]]
    assert [len(each) for each in replies] == [0, 2]
    assert model.skipped == 2
    assert engine.requests == 2


@pytest.mark.parametrize("where", ["start", "inside"])
def test_the_engine_is_closed_on_errors(
    models_root: Path, make_engine: Callable[..., Any], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    if where == "start":
        monkeypatch.setattr(engine, "start", fail)
    with pytest.raises(RuntimeError), EngineModel(str(models_root / "ours"), engine, SAMPLING):
        fail()
    assert engine.closed == 1
