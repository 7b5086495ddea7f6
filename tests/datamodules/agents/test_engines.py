"""Agents whose models an engine of this process loads, one after the other, in batches."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from katlit import progress
from katlit.batch import Prompt
from katlit.datamodules import ColdStartData, FilePrompts, ThreeAgents
from katlit.datamodules.agents.roles import Role
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import read_records
from katlit.datamodules.tagging import RuleTagger
from katlit.engines import SamplingParameters
from katlit.errors import UserError
from katlit.text.protocol import Mode


@pytest.fixture
def make(tmp_path: Path, models_root: Path, sums: list[Prompt]) -> Any:
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))

    def make(engine: Any, cache: str = "cache", tokens: int = 300) -> ColdStartData:
        sampling = SamplingParameters(max_tokens=tokens)
        solver = Role(str(models_root / "ours"), "Sum: {question}", sampling)
        words = "A draft: {draft}. Objections: {objections}. The sum: {question}"
        thinker = Role(str(models_root / "ours-characters"), words, sampling)
        labeller = ThreeAgents(thinker=thinker, solver=solver, think_share=0.5)
        prompts = FilePrompts(str(tmp_path / "prompts.jsonl"))
        folder = str(tmp_path / cache)
        return ColdStartData(solver.model, prompts, engine, labeller=labeller, cache_dir=folder)

    return make


def test_two_models_share_an_engine_in_batches(make: Any, make_engine: Any) -> None:
    engine = make_engine(right=lambda question, mode, seed: seed % 3 > 0)
    batches, generate = [], engine.generate
    engine.generate = lambda prompts, *more: batches.append(len(prompts)) or generate(prompts, *more)
    data = make(engine)
    data.prepare_data()
    records = read_records(data.records_path())
    assert {record.regime for record in records} == set(Mode)
    assert all(record.answer == record.reference for record in records)
    assert len(records) >= 15
    assert batches[0] == 20  # drafts and direct answers
    assert len(batches) <= 1 + 2 * 3
    assert engine.started == ["ours", "ours-characters"]
    again = make_engine(right=lambda question, mode, seed: seed % 3 > 0)
    data.records_path().unlink()
    make(again).prepare_data()
    assert (again.requests, again.started) == (0, [])


def test_one_model_thinks_and_answers_and_lots_mix_its_modes(
    tmp_path: Path, models_root: Path, sums: list[Prompt], make_engine: Any
) -> None:
    """As the demo has it: no solver, no critic, modes by rules and by lot, a share of objects beside."""
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) | {"domain": "sums"} for prompt in sums))
    role = Role(str(models_root / "ours"), sampling=SamplingParameters(max_tokens=300))
    modes = {}
    for epsilon in (0.0, 0.5, 1.0):
        labeller = ThreeAgents(
            thinker=role,
            rules=RuleTagger(think_from=5),
            think_share=None,
            epsilon=epsilon,
            json_share=0.5,
            forced=0.0,
        )
        data = ColdStartData(
            role.model, FilePrompts(str(tmp_path / "prompts.jsonl")), make_engine(),
            labeller=labeller, cache_dir=str(tmp_path / f"cache-{epsilon}"),
        )  # fmt: skip
        data.prepare_data()
        records = read_records(data.records_path())
        plain = [record for record in records if not record.rewritten]
        assert len(plain) == 20
        assert {record.teacher for record in records} == {role.model}
        objects = [record for record in records if record.rewritten]
        assert 3 <= len(objects) <= 17
        assert all(json.loads(record.answer) == {"answer": int(record.reference)} for record in objects)
        modes[epsilon] = [record.regime for record in plain].count(Mode.THINK_ON)
    assert modes[0.0] == 0  # the rules say that none needs it
    assert 1 <= modes[0.5] < 10
    assert 5 <= modes[1.0] <= 15


def test_the_batch_tells_its_progress_and_the_queries_do_not(
    make: Any, make_engine: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    make(make_engine()).prepare_data()
    told = [record.getMessage() for record in caplog.records if " a second" in record.getMessage()]
    assert any("ours: 20 of 20 replies" in line for line in told)
    assert not any(" queries, " in line for line in told)


def test_a_budget_that_leaves_no_room_is_refused_at_once(make: Any, make_engine: Any) -> None:
    engine = make_engine()
    with pytest.raises(UserError, match=r"^sampling\.max_tokens: 5000, but the engine's max_context is 4096"):
        make(engine, tokens=5000).prepare_data()
    assert engine.requests == 0
