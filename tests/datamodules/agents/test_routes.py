"""Which queries have other agents: by their tags, and over real HTTP."""

import json
from pathlib import Path

import pytest
from faulty_chat import faulty_chat
from scripted_agents import reply, role_of, total

from katlit.datamodules import DistillData, FilePrompts, ThreeAgents
from katlit.datamodules.agents import Role, Route
from katlit.datamodules.agents.routes import route_of
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import read_records
from katlit.datamodules.tagging import Tags
from katlit.engines import ChatEndpoint
from katlit.errors import UserError
from katlit.text.protocol import Mode

SMALL, LARGE, OTHER = Role("endpoint:small"), Role("endpoint:large"), Role("endpoint:other")
ROUTES = [Route(["Code "], easiest=3, solver=LARGE), Route(hardest=2, solver=OTHER)]


@pytest.mark.parametrize(
    ("domain", "difficulty", "number"), [("code", 3, 1), ("code", 2, 2), ("math", 3, 0), ("math", 1, 2)]
)
def test_the_first_route_that_fits_counts(domain: str, difficulty: int, number: int) -> None:
    assert route_of(ROUTES, Tags(True, domain, difficulty, True, "math")) == number


def test_a_route_takes_some_queries_and_names_an_agent() -> None:
    with pytest.raises(UserError, match="routes: 3 to 2; give difficulties from 1 to 5"):
        Route(easiest=3, hardest=2, solver=SMALL)
    with pytest.raises(UserError, match="routes: one names no agent; give a solver, thinker or answerer"):
        Route(["math"])
    with pytest.raises(UserError, match=r"solver\.model: not given"):
        Route(solver=Role(" "))


def test_settings_tell_routes_apart() -> None:
    brief = Role(LARGE.model, "{question}")
    kinds = [
        None, [Route(["a"], solver=LARGE)], [Route(["b"], solver=LARGE)], [Route(["a"], thinker=LARGE)],
        [Route(["a"], 2, solver=LARGE)], [Route(["a"], solver=SMALL)], [Route(["a"], solver=brief)],
    ]  # fmt: skip
    told = [
        json.dumps(ThreeAgents(thinker=SMALL, solver=SMALL, routes=routes).settings()) for routes in kinds
    ]
    assert len(set(told)) == len(kinds)


def test_queries_of_a_route_have_its_agents(
    tmp_path: Path, models_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tagger calls sums with a 4 hard; the others' direct answers come from another model."""
    sums = [f"{left}+{right}" for left in range(1, 7) for right in range(1, 5)]
    rows = [{"id": sum_, "prompt": f"What is {sum_}?", "reference": str(total(sum_))} for sum_ in sums]
    write_rows(tmp_path / "prompts.jsonl", rows)
    routes = [
        Route(["Math"], easiest=3, solver=LARGE, thinker=LARGE), Route(answerer=OTHER),
        Route(["maths"], solver=LARGE),
    ]  # fmt: skip
    agents = ThreeAgents(
        thinker=SMALL, solver=SMALL, critic=SMALL, tagger=SMALL, votes=3, think_share=0.5, routes=routes
    )
    with faulty_chat(reply) as server:
        data = DistillData(
            str(models_root / "ours"), SMALL.model,
            FilePrompts(str(tmp_path / "prompts.jsonl"), verifier="match"), ChatEndpoint(server.url, None),
            labeller=agents, cache_dir=str(tmp_path / "cache"),
        )  # fmt: skip
        data.prepare_data()

    def model(role: str, hard: bool) -> str:
        if role == "answerer":
            return (SMALL if hard else OTHER).model
        return (LARGE if hard and role in ("solver", "thinker") else SMALL).model

    path = data.records_path()
    traces, counts = (
        [json.loads(line) for line in path.with_name(f"{kind}-{path.name}").read_text().splitlines()]
        for kind in ("traces", "agents")
    )
    hard = {trace["id"]: trace["tags"]["difficulty"] == 3 for trace in traces}
    steps = [(trace["id"], step["role"], step["model"]) for trace in traces for step in trace["steps"]]
    assert all(name == model(role, hard[query]) for query, role, name in steps)
    found = {(role, name) for _, role, name in steps}
    assert {("thinker", LARGE.model), ("thinker", SMALL.model), ("answerer", OTHER.model)} <= found
    assert {(role_of(body), f"endpoint:{body['model']}") for body in server.bodies} == found
    assert {(row["role"], row["model"]) for row in counts if row.get("replies")} == found
    for record in read_records(path):
        role = "thinker" if record.regime is Mode.THINK_ON else "answerer"
        assert record.teacher == model(role, hard[record.id])
    assert "routes: no query is of domain 'maths'; the tags know 'math'" in caplog.text
