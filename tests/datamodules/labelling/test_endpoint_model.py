"""Labels by a model of which there is nothing but an endpoint, whatever the server does meanwhile."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faulty_chat import FaultyChat, content_hash, faulty_chat

from katlit.batch import Prompt
from katlit.datamodules import DistillData, DualRegime, FilePrompts
from katlit.datamodules.dialects.dialects import BALLOT_TEMPLATE
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.labelling.endpoint_model import EndpointModel
from katlit.datamodules.records import Record, read_records
from katlit.engines import (
    ChatEndpoint,
    EndpointLimits,
    HFEngine,
    SamplingParameters,
    TokenPrices,
    chat_client,
)
from katlit.errors import UserError
from katlit.text.protocol import Mode

TEACHER = "endpoint:the-model"
THINK = {"reasoning_effort": "high"}
FAULTS = [(), ("busy", "garbage"), ("broken",), ("dropped",)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "backoff", lambda attempt, longest, random: 0.001)


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Votes by the question, and adds up, now and then wrongly, once in a while for ever."""
    question = body["messages"][-1]["content"]
    sum_asked = re.findall(r"\d+\+\d+", question)[-1]
    if question.startswith("Does"):
        return {"content": f"Yes. It has {sum_asked}." if "4" in sum_asked else "No, it is plain."}
    total = sum(map(int, sum_asked.split("+"))) + (content_hash(body) % 3 == 0)
    thought = {"reasoning_content": f"{sum_asked} is {total}"} if "reasoning_effort" in body else {}
    return {"content": str(total)} | thought


@pytest.fixture
def make(tmp_path: Path, models_root: Path, sums: list[Prompt]) -> Callable[[str, FaultyChat], DistillData]:
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))

    def make(cache: str, server: FaultyChat, **body: Any) -> DistillData:
        limits = EndpointLimits(concurrency=8, retries=3)
        engine = ChatEndpoint(server.url, None, THINK, body=body, limits=limits, prices=TokenPrices(1e5, 2e5))
        return DistillData(
            str(models_root / "ours"), TEACHER, FilePrompts(str(tmp_path / "prompts.jsonl")), engine,
            labeller=DualRegime(TEACHER, ballots=3), cache_dir=str(tmp_path / cache),
        )  # fmt: skip

    return make


@pytest.fixture
def truth(make: Callable[..., DistillData]) -> tuple[list[Record], int]:
    """The records of a server without faults, and the requests that they took."""
    with faulty_chat(answer) as server:
        data = make("truth", server)
        data.prepare_data()
        return read_records(data.records_path()), len(server.bodies)


def test_faults_change_no_record_and_no_reply_is_asked_for_twice(
    make: Callable[..., DistillData], truth: tuple[list[Record], int], caplog: pytest.LogCaptureFixture
) -> None:
    records, requests = truth
    assert {record.regime for record in records} == set(Mode)
    for record in records:
        assert record.think == (f"{record.id} is {record.answer}" if record.regime is Mode.THINK_ON else "")
        assert record.answer == record.reference
        assert record.judge == (f"It has {record.id}." if "4" in record.id else "it is plain.")
        assert record.teacher == TEACHER
    faults = lambda body: FAULTS[content_hash(body) % len(FAULTS)]  # noqa: E731
    with faulty_chat(answer, faults) as server, caplog.at_level("INFO", "katlit"):
        for share in range(2):
            make("faulty", server).label_share(share, 2)
        data = make("faulty", server)
        data.prepare_data()
        assert read_records(data.records_path()) == records
        assert len(server.attempts) == requests
        assert all(n == 1 + len(FAULTS[int(key) % len(FAULTS)]) for key, n in server.attempts.items())
        assert server.keys == {None}
    assert {body["model"] for body in server.bodies} == {"the-model"}
    cost = f"{requests * (10 * 1e5 + 5 * 2e5) / 1e6:.2f}"
    told = (
        f"took {10 * requests} prompt and {5 * requests} reply tokens, {cost} by engine.prices; asked now: 0"
    )
    assert told in caplog.text
    data.setup("fit")
    assert sorted(next(iter(data.train_dataloader()))) == ["input_ids", "loss_mask", "position_ids"]


def test_what_is_refused_is_told_and_its_queries_go_without(
    make: Callable[..., DistillData], truth: tuple[list[Record], int], caplog: pytest.LogCaptureFixture
) -> None:
    """Of some questions each answer is refused, as too long."""
    records, _ = truth

    def faults(body: dict[str, Any]) -> tuple[str, ...]:
        content = body["messages"][0]["content"]
        return ("too long",) * 9 if content.startswith(("2", "4")) else ()

    with faulty_chat(answer, faults) as server:
        data = make("lossy", server)
        data.prepare_data()
    assert read_records(data.records_path()) == [one for one in records if not one.id.startswith(("2", "4"))]
    assert "endpoint:the-model: 5 of 8 requests were refused, 5 with status 400: " in caplog.text
    told = "labels: replies that endpoint:the-model did not give: "
    assert f"{told}think-on of 5 queries (5 got none), think-off of 3 queries (3 got none)" in caplog.text


def test_losses_are_counted_by_what_the_server_said(
    make: Callable[..., DistillData], caplog: pytest.LogCaptureFixture
) -> None:
    """Attempts by their faults, requests by the last of them, and what queries do without."""
    faults = {
        "1+4": ("broken",), "2+4": ("busy",) * 2, "3+4": ("garbage", "dropped"), "4+4": ("too long",) * 9,
        "5+4": ("broken",) * 9,
    }  # fmt: skip

    def of_first(body: dict[str, Any]) -> tuple[str, ...]:
        thinks = "reasoning_effort" in body
        return next((one for key, one in faults.items() if thinks and key in str(body)), ())

    with faulty_chat(answer, of_first) as server, caplog.at_level("INFO", "katlit"):
        make("counted", server).label_share(0, 1)
    told = (
        "88 requests, in 105 attempts, 8 without a reply (4 status 400, 4 status 500); attempts that failed: "
    )
    assert f"{told}17 status 500, 4 status 400, 2 status 429, 1 no reply, 1 no connection" in caplog.text


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            "no key",
            r"now: [1-8] requests, in [1-8] attempts, [1-8] without a reply; .*: \d status 401$",
        ),
        (
            "broken",
            r"[12]\d requests, in \d\d attempts, [12]\d without a reply \(16 status 500\); .* status 500$",
        ),
    ],
)
def test_what_was_asked_is_told_where_labelling_stops(
    make: Callable[..., DistillData], caplog: pytest.LogCaptureFixture, fault: str, told: str
) -> None:
    with faulty_chat(answer, lambda _: (fault,) * 9) as server, caplog.at_level("INFO", "katlit"):
        data = make("stopped", server)
        with pytest.raises(UserError, match="/chat/completions: "):
            data.prepare_data()
    (line,) = [one for one in caplog.messages if "asked now" in one]
    assert re.search(told, line), line


def test_refused_requests_are_no_silence_in_any_later_pass(
    make: Callable[..., DistillData], truth: tuple[list[Record], int]
) -> None:
    """Only what was refused is asked again then, of which there is more than a silent server may lose."""
    is_refused = lambda body: re.search(r"[24]\+\d", body["messages"][0]["content"])  # noqa: E731
    with faulty_chat(answer, lambda body: ("too long",) * 9 if is_refused(body) else ()) as server:
        for share in range(2):
            make("refusing", server).label_share(share, 2)
        for _ in range(2):
            data = make("refusing", server)
            data.prepare_data()
            left = [one for one in truth[0] if not one.id.startswith(("2", "4"))]
            assert read_records(data.records_path()) == left
            data.records_path().unlink()
    asked = [body for body in server.bodies if is_refused(body)]
    assert len(asked) - len({content_hash(body) for body in asked}) >= 2 * 16


def test_what_failed_is_asked_for_again(
    make: Callable[..., DistillData], truth: tuple[list[Record], int], caplog: pytest.LogCaptureFixture
) -> None:
    """All attempts of some requests fail; shares leave them, and no records are made without them."""
    faults = lambda body: ("broken",) * 12 if "2+2" in str(body) or "4+2" in str(body) else ()  # noqa: E731
    with faulty_chat(answer, faults) as server:
        for share in range(2):
            make("failing", server).label_share(share, 2)
        assert "endpoint:the-model: 6 requests got no reply, 6 for status 500: " in caplog.text
        data = make("failing", server)
        with pytest.raises(UserError, match=r": 6 requests got no reply, 6 for .*; run again, which"):
            data.prepare_data()
        assert not data.records_path().exists()
        while not data.records_path().exists():
            with suppress(UserError):
                data.prepare_data()
    assert read_records(data.records_path()) == truth[0]


def test_another_body_finds_no_earlier_reply(make: Callable[..., DistillData]) -> None:
    with faulty_chat(answer) as server:
        for body in ({"effort": 1}, {"effort": 2}, {"effort": 1}):
            data = make("bodies", server, **body)
            data.prepare_data()
            data.records_path().unlink()
    assert {body["effort"] for body in server.bodies} == {1, 2}
    assert set(server.attempts.values()) == {1}


def read(message: dict[str, Any], thinking: Any, *, words: bool = False, **prompt: Any) -> Any:
    """What is read of one reply."""
    endpoint: Any
    with faulty_chat(lambda _: dict(message)) as server:
        endpoint = ChatEndpoint(server.url, None, None if words else THINK)
        model = EndpointModel(
            "m", endpoint, SamplingParameters(top_k=5), 64, BALLOT_TEMPLATE, ThinkingSettings(), None
        )
        one: Any = {"id": "a", "messages": [{"role": "user", "content": "Why?"}]} | prompt
        ((reply,),) = model.sample([one], thinking, [[7]])
    (body,) = server.bodies
    assert (body["seed"], body["top_k"], body["max_tokens"]) == (7, 5, 1024)
    return reply.parsed, body


CALL = {"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
BLOCK = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("message", "thinking", "mode", "think", "answer", "violation"),
    [
        ({"content": "5", "reasoning": "2+3"}, "on", "on", "2+3", "5", None),
        ({"content": "<think>\n2+3\n</think>\n\n5"}, "on", "on", "2+3", "5", None),
        ({"content": "5"}, "on", "off", "", "5", None),
        ({"content": "5", "reasoning_content": ""}, "off", "off", "", "5", None),
        ({"content": None, "reasoning": "2+3"}, "on", "on", "2+3", None, "missing_answer"),
        ({"content": "5", "finish_reason": "length"}, "off", "off", "", "5", "truncated"),
        ({"content": "5", "finish_reason": "content_filter"}, "off", "off", "", "5", "missing_answer"),
    ],
)
def test_replies_are_read(
    message: Any, thinking: str, mode: str, think: str, answer: str | None, violation: str | None
) -> None:
    parsed, body = read(message, thinking)
    assert (parsed.mode, parsed.think, parsed.answer, parsed.violation) == (mode, think, answer, violation)
    assert ("reasoning_effort" in body) == (thinking == "on")


def test_without_a_switch_thought_is_asked_for_in_words() -> None:
    parsed, body = read({"content": "2 and 3\nFinal answer:\n5"}, "on", words=True)
    assert (parsed.mode, parsed.think, parsed.answer, parsed.violation) == ("on", "2 and 3", "5", None)
    assert "Reason step by step" in body["messages"][0]["content"]
    parsed, body = read({"content": "2 and 3"}, "on", words=True)
    assert parsed.violation == "missing_answer"
    assert read({"content": "5"}, "off", words=True)[1]["messages"] == [{"role": "user", "content": "Why?"}]


def test_tools_go_out_and_calls_come_back() -> None:
    called = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    turns = [
        {"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
    ]  # fmt: skip
    message = {"content": "Again.", "tool_calls": [CALL], "finish_reason": "tool_calls"}
    parsed, body = read(message, "off", tools=[TOOL], messages=turns)
    assert (parsed.answer, parsed.violation) == (f"Again.\n{BLOCK}", None)
    assert body["tools"] == [TOOL]
    assert json.loads(body["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
    wrong = {"content": "", "tool_calls": [{"function": {"name": "weather", "arguments": "{"}}]}
    assert read(wrong, "off", tools=[TOOL], messages=turns)[0].violation == "malformed_tool_call"


def test_such_a_name_needs_an_endpoint(tmp_path: Path, models_root: Path, sums: list[Prompt]) -> None:
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))
    prompts = FilePrompts(str(tmp_path / "prompts.jsonl"))
    data = DistillData(
        str(models_root / "ours"), TEACHER, prompts, HFEngine(), labeller=DualRegime(TEACHER),
        cache_dir=str(tmp_path),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"'endpoint:the-model' is a model that only an endpoint has"):
        data.prepare_data()
