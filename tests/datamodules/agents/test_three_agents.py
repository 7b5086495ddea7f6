"""Agents over real HTTP, whatever the server does meanwhile: every record right, every loss counted.

Over 300 lines because all tests share one script of the server, and what it gives where nothing goes wrong.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from faulty_chat import FaultyChat, content_hash, faulty_chat
from scripted_agents import question_of, reply, role_of, total

from katlit.datamodules import DistillData, FilePrompts, ThreeAgents
from katlit.datamodules.agents import Role, three_agents
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.labelling.reply_cache import ReplyCache
from katlit.datamodules.records import Record, read_records
from katlit.engines import ChatEndpoint, EndpointLimits, TokenPrices, chat_client
from katlit.engines.chat_client import ChatClient
from katlit.engines.chat_reply import Reply
from katlit.errors import UserError
from katlit.text.protocol import Mode

MODEL = Role("endpoint:the-model")
FAULTS = [(), (), (), (), ("busy", "garbage"), ("broken",), ("dropped",), ("slow",), ("no reply",)]


class KilledError(BaseException):
    """As if the process had ended."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "backoff", lambda attempt, longest, random: 0.001)


def data_of(folder: Path, models_root: Path, server: FaultyChat, **more: Any) -> DistillData:
    """Data of stage 1 with a cache, whose agents a server has."""
    questions = [f"{left}+{right}" for left in range(1, 6) for right in range(1, 7)]
    prompts = [
        {"id": sum_, "prompt": f"What is {sum_}?", "reference": str(total(sum_)), "domain": "sums"}
        for sum_ in questions
    ]
    write_rows(folder.parent / "prompts.jsonl", prompts)
    limits = EndpointLimits(concurrency=8, retries=3)
    engine = ChatEndpoint(server.url, None, limits=limits, prices=TokenPrices(1e4, 2e4))
    settings: dict[str, Any] = {"critic": MODEL, "writer": MODEL, "tagger": MODEL, "votes": 3} | more
    return DistillData(
        str(models_root / "ours"), "endpoint:the-model",
        FilePrompts(str(folder.parent / "prompts.jsonl"), verifier="match"), engine,
        labeller=ThreeAgents(thinker=MODEL, solver=MODEL, **settings), cache_dir=str(folder),
    )  # fmt: skip


class Truth(NamedTuple):
    """What labelling gives where nothing goes wrong, and what the server was asked for it."""

    data: DistillData
    files: dict[str, str]
    asked: Counter[str]
    roles: Counter[str]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory, models_root: Path) -> Truth:
    with faulty_chat(reply) as server:
        data = data_of(tmp_path_factory.mktemp("truth") / "cache", models_root, server)
        data.prepare_data()
    return Truth(data, written(data), server.attempts, Counter(map(role_of, server.bodies)))


@pytest.fixture
def make(tmp_path: Path, models_root: Path) -> Callable[..., DistillData]:
    return lambda server, **more: data_of(tmp_path / "cache", models_root, server, **more)


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


def written(data: DistillData) -> dict[str, str]:
    """The hashes of all files that the labels have."""
    path = data.records_path()
    files = {name: path.with_name(f"{name}{path.name}") for name in ("", "traces-", "agents-", "rejected-")}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def test_records_are_right_and_losses_are_counted(truth: Truth) -> None:
    records = read_records(truth.data.records_path())
    traces, counts = rows(truth.data, "traces"), rows(truth.data, "agents")
    assert_right(records, traces)
    assert {record.regime for record in records} == set(Mode)
    assert sum(trace["mode"] == "on" for trace in traces) == 10  # 34.8 % of 30
    steps = [step for trace in traces for step in trace["steps"]]
    assert Counter(step["role"] for step in steps) == truth.roles
    assert {step["fault"] for step in steps} >= {
        None, "truncated", "language", "context", "wrong", "score", "unread", "untagged", "malformed"
    }  # fmt: skip
    sources, agents = counts[:2], counts[2:]
    assert [(row["source"], row["mode"]) for row in sources] == [("sums", "off"), ("sums", "on")]
    assert sum(row["kept"] for row in sources) == len(records) < sum(row["queries"] for row in sources) == 30
    dropped = Counter(trace["dropped"] for trace in traces if not trace["kept"])
    assert sum((Counter(row["dropped"]) for row in sources), Counter()) == dropped
    assert {row["role"]: row["replies"] for row in agents} == truth.roles
    for row in agents:
        faults = Counter(step["fault"] for step in steps if step["role"] == row["role"] and step["fault"])
        assert (row["faults"], row["prompt_tokens"]) == (faults, 10 * row["replies"])


def test_no_byte_depends_on_what_the_server_does_meanwhile(
    truth: Truth, make: Callable[..., DistillData]
) -> None:
    faults = lambda body: FAULTS[content_hash(body) % len(FAULTS)]  # noqa: E731
    with faulty_chat(reply, faults) as server:
        data = make(server)
        data.prepare_data()
    assert server.attempts.keys() == truth.asked.keys()
    assert all(
        n == 1 + len([f for f in FAULTS[int(key) % len(FAULTS)] if f != "slow"])
        for key, n in server.attempts.items()
    )
    assert 1 < server.most_busy <= 8
    assert written(data) == truth.files


def test_what_is_refused_is_dropped_and_counted(
    truth: Truth, make: Callable[..., DistillData], caplog: pytest.LogCaptureFixture
) -> None:
    def faults(body: dict[str, Any]) -> tuple[str, ...]:
        return ("too long",) * 9 if role_of(body) == "thinker" and question_of(body).startswith("4") else ()

    with faulty_chat(reply, faults) as server:
        data = make(server)
        data.prepare_data()
    traces = [trace for trace in rows(data, "traces") if trace["dropped"] == "thinker no reply"]
    lost = {trace["id"] for trace in traces}
    assert {trace["lost"] for trace in traces} == {"status 400"}  # what else a server says may differ
    assert "requests were refused, " in caplog.text
    assert 'with status 400: {"error": {"message": "too long"}}; their queries do without' in caplog.text
    assert lost == {
        trace["id"] for trace in rows(truth.data, "traces") if trace["mode"] == "on" and trace["id"][0] == "4"
    }
    whole = read_records(truth.data.records_path())
    assert read_records(data.records_path()) == [record for record in whole if record.id not in lost]


def test_a_vote_that_is_refused_is_counted(make: Callable[..., DistillData]) -> None:
    def faults(body: dict[str, Any]) -> tuple[str, ...]:
        return ("too long",) * 9 if role_of(body) == "tagger" and question_of(body).startswith("4") else ()

    with faulty_chat(reply, faults) as server:
        data = make(server)
        data.prepare_data()
    for trace in rows(data, "traces"):
        assert trace["tags"]["lost"] == ["status 400"] * 3 * (trace["id"][0] == "4")
    told = {row["role"]: (row["replies"], row["lost"]) for row in rows(data, "agents") if "role" in row}
    assert told["tagger"] == (3 * 24, {"status 400": 3 * 6})
    assert told["critic"][1] == {}


def test_a_share_of_a_domain_that_no_query_has_is_said(
    make: Callable[..., DistillData], caplog: pytest.LogCaptureFixture
) -> None:
    with faulty_chat(reply) as server:
        make(server, think_share_by_domain={"Math ": 0.2, "maths": 0.9}).prepare_data()
    assert "think_share_by_domain: no query is of domain 'maths'; the tags know 'math'" in caplog.text
    with pytest.raises(UserError, match=r"think_share_by_domain: .*; give none where think_share is null"):
        ThreeAgents(thinker=MODEL, think_share=None, think_share_by_domain={"math": 0.2})


def test_what_fails_ends_the_run_and_is_asked_again(truth: Truth, make: Callable[..., DistillData]) -> None:
    with faulty_chat(reply, lambda body: ("broken",) * 4 if role_of(body) == "writer" else ()) as server:
        data = make(server)
        told = r"^\d+ of 30 queries are not finished, \d+ for status 500: .*; run again, which asks"
        with pytest.raises(UserError, match=told):
            data.prepare_data()
        while not data.records_path().exists():
            with suppress(UserError):
                data.prepare_data()
    assert written(data) == truth.files


def test_the_bytes_are_the_same_for_any_number_of_processes(
    truth: Truth, make: Callable[..., DistillData]
) -> None:
    with faulty_chat(reply) as server:
        processes = [make(server) for _ in range(4)]
        for number, data in enumerate(processes):
            data.survey_share(number, 4)
        for number, data in enumerate(processes):
            data.label_share(number, 4)
        assert server.attempts == truth.asked  # all was in the shares, and nothing twice
        processes[0].prepare_data()
        assert server.attempts == truth.asked
    assert written(processes[0]) == truth.files


def test_lots_and_objects_are_the_same_for_any_number_of_processes(
    truth: Truth, models_root: Path, tmp_path: Path
) -> None:
    lots = {"epsilon": 0.5, "json_share": 0.5}
    with faulty_chat(reply) as server:
        alone, *shares = (
            data_of(tmp_path / folder / "cache", models_root, server, **lots)
            for folder in ("alone", *["shared"] * 4)
        )
        alone.prepare_data()
        for number, data in enumerate(shares):
            data.survey_share(number, 4)
        for number, data in enumerate(shares):
            data.label_share(number, 4)
        shares[0].prepare_data()
    assert written(shares[0]) == written(alone)
    assert any(record.rewritten for record in read_records(alone.records_path()))
    chosen, plain = ([trace["mode"] for trace in rows(data, "traces")] for data in (alone, truth.data))
    assert 2 <= sum(one != other for one, other in zip(chosen, plain, strict=True)) <= 15


def killed(make: Callable[[], DistillData], kills: Iterable[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Label, and be killed after so many replies, time and again."""
    put, attempt, left = ReplyCache.put, ChatClient._attempt, 0

    def put_until_killed(cache: ReplyCache, key: str, value: Any) -> None:
        nonlocal left
        if left == 0:
            raise KilledError
        left -= 1
        put(cache, key, value)

    async def send_until_killed(*what: Any) -> Reply:
        if left == 0:
            raise KilledError
        return await attempt(*what)

    monkeypatch.setattr(ReplyCache, "put", put_until_killed)
    monkeypatch.setattr(ChatClient, "_attempt", send_until_killed)
    for kill in kills:
        left = kill
        with pytest.raises(KilledError):
            make().prepare_data()
    left = 10**9
    make().prepare_data()


def test_twenty_kills_lose_what_was_in_flight_and_nothing_else(
    truth: Truth, make: Callable[..., DistillData], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Random(20)
    cuts = [chance.randrange(truth.asked.total() // 21) for _ in range(20)]
    with faulty_chat(reply) as server:
        killed(lambda: make(server), cuts, monkeypatch)
    assert server.attempts.keys() == truth.asked.keys()
    assert server.attempts.total() - truth.asked.total() <= 20 * 8  # those in flight
    assert written(make(server)) == truth.files


def test_another_rubric_asks_the_critic_alone(truth: Truth, make: Callable[..., DistillData]) -> None:
    with faulty_chat(reply) as server:
        shutil.copytree(truth.data.records_path().parent, make(server).records_path().parent)
        make(server, rubric="Five points for good style.").prepare_data()
        assert [role_of(body) for body in server.bodies] == ["critic"] * truth.roles["critic"]


def test_the_cost_is_estimated_by_the_first_queries(
    truth: Truth,
    make: Callable[..., DistillData],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(three_agents, "_FIRST", 10)
    with faulty_chat(reply) as server, caplog.at_level("INFO", "katlit"):
        data = make(server)
        data.prepare_data()
        assert set(server.attempts.values()) == {1}
        data.records_path().unlink()
        make(server).prepare_data()
    first, second = [line for line in caplog.messages if "the first 10 queries" in line]
    took = re.match(
        r"agents: the first 10 queries took (\d+) requests \(0 of them known before\), (\d+) prompt and "
        r"(\d+) reply tokens; the other 20 will take about (\d+) requests, (\d+) prompt and (\d+) reply "
        r"tokens, at most \d+\.\d\d hours, (\d+\.\d\d) by engine\.prices$", first,
    )  # fmt: skip
    assert took is not None
    requests, *told = map(float, took.groups())
    assert told == [10 * requests, 5 * requests, *(2 * n * requests for n in (1, 10, 5)), 0.4 * requests]
    assert f"({requests:.0f} of them known before)" in second
    assert "hours" not in second
    assert written(data) == truth.files
