"""Agents whose models an engine of this process loads, one after the other, in batches."""

from pathlib import Path
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules import ColdStartData, FilePrompts, ThreeAgents
from katlit.datamodules.agents.roles import Role
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import read_records
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
        labeller = ThreeAgents(solver, thinker, think_share=0.5)
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


def test_a_budget_that_leaves_no_room_is_refused_at_once(make: Any, make_engine: Any) -> None:
    engine = make_engine()
    with pytest.raises(UserError, match=r"^sampling\.max_tokens: 5000, but the engine's max_context is 4096"):
        make(engine, tokens=5000).prepare_data()
    assert engine.requests == 0
