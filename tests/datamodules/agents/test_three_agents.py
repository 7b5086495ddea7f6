"""Agents over real HTTP, whatever the server does meanwhile: every record right, every loss counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty_chat import FaultyChat, content_hash, faulty_chat
from scripted_agents import reply

from katlit.batch import Prompt
from katlit.datamodules import DistillData, FilePrompts, ThreeAgents
from katlit.datamodules.agents.roles import Role
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import Record, read_records
from katlit.engines import ChatEndpoint, EndpointLimits, chat_client
from katlit.text.protocol import Mode

MODEL = Role("endpoint:the-model")
FAULTS = [(), ("busy", "garbage"), ("broken",), ("dropped",), ("slow",), ("no reply",)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "backoff", lambda attempt, longest, random: 0.001)


@pytest.fixture
def make(tmp_path: Path, models_root: Path, sums: list[Prompt]) -> Callable[..., DistillData]:
    """Data of stage 1 with a cache, whose agents a server has."""
    asked = [
        prompt | {"messages": [{"role": "user", "content": f"What is {prompt['id']}?"}]} for prompt in sums
    ]
    write_rows(tmp_path / "prompts.jsonl", asked)

    def make(cache: str, server: FaultyChat, **more: Any) -> DistillData:
        engine = ChatEndpoint(server.url, None, limits=EndpointLimits(concurrency=8, retries=3))
        settings: dict[str, Any] = {"critic": MODEL, "writer": MODEL, "tagger": MODEL, "votes": 3} | more
        return DistillData(
            str(models_root / "ours"), "endpoint:the-model", FilePrompts(str(tmp_path / "prompts.jsonl")),
            engine, labeller=ThreeAgents(MODEL, MODEL, **settings), cache_dir=str(tmp_path / cache),
        )  # fmt: skip

    return make


def rows(data: DistillData, kind: str) -> list[dict[str, Any]]:
    path = data.records_path()
    return [json.loads(line) for line in path.with_name(f"{kind}-{path.name}").read_text().splitlines()]


def assert_right(records: list[Record], traces: list[dict[str, Any]]) -> None:
    """What the script says is kept only where it is right, and each trace tells why."""
    kept = {trace["id"]: trace for trace in traces if trace["kept"]}
    assert [record.id for record in records] == list(kept)
    for record in records:
        assert record.answer == record.reference
        assert record.verified
        assert record.think == (f"{record.id} is {record.answer}." if record.regime is Mode.THINK_ON else "")
        assert record.critic_score == (None if record.regime is Mode.THINK_OFF else kept[record.id]["score"])
        assert record.judge in ("It asks for a sum.", "This needs several steps of reasoning.",
                                "This can be answered directly.")  # fmt: skip


def test_every_record_is_right_whatever_the_server_does(make: Callable[..., DistillData]) -> None:
    with faulty_chat(reply) as server:
        truth = make("truth", server)
        truth.prepare_data()
        whole = server.attempts.copy()
    records, traces = read_records(truth.records_path()), rows(truth, "traces")
    assert_right(records, traces)
    assert {record.regime for record in records} == set(Mode)
    assert sum(trace["mode"] == "on" for trace in traces) == 7  # 34.8 % of 20
    faults = lambda body: FAULTS[content_hash(body) % len(FAULTS)]  # noqa: E731
    with faulty_chat(reply, faults) as server:
        faulty = make("faulty", server)
        faulty.prepare_data()
        assert server.attempts.keys() == whole.keys()
        assert 1 < server.most_busy <= 8
    for name in ("", "traces-", "agents-", "rejected-"):
        files = [data.records_path() for data in (truth, faulty)]
        first, second = (file.with_name(f"{name}{file.name}").read_bytes() for file in files)
        assert first == second
