"""Over real HTTP: every reply right whatever the server does, and what has none is counted."""

import time
from random import Random
from typing import Any

import pytest
from faulty_chat import content_hash, faulty_chat

from katlit.engines import ChatEndpoint, EndpointLimits, SamplingParameters, TokenPrices, chat_client
from katlit.engines.chat_client import ChatClient, ChatRequest, Queue
from katlit.engines.chat_reply import Reply
from katlit.engines.chat_tally import Tally
from katlit.engines.pace import Pace, backoff, seconds_of
from katlit.errors import UserError

FAULTS: list[tuple[str, ...]] = [
    (), ("busy",), ("broken", "broken"), ("garbage",), ("no reply", "dropped"), ("slow",), ("wait",),
    ("too long",) * 9, ("broken",) * 9,
]  # fmt: skip
REQUESTS = [
    ChatRequest({"messages": [{"role": "user", "content": f"{number}?"}], "max_tokens": 50}, number)
    for number in range(45)
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "secret\n")  # as of a file
    monkeypatch.setattr(chat_client, "backoff", lambda attempt, longest, random: 0.001)


def number_of(body: Any) -> int:
    return int(body["messages"][0]["content"][:-1])


def faults_of(body: Any) -> tuple[str, ...]:
    return FAULTS[number_of(body) % len(FAULTS)]


def answer(body: dict[str, Any]) -> dict[str, Any]:
    return {"content": f"{number_of(body)} by {body['seed']}", "reasoning": f"{content_hash(body)}"}


def asked(url: str, requests: list[ChatRequest] = REQUESTS, **limits: Any) -> tuple[dict[int, Reply], Tally]:
    settings = EndpointLimits(**{"retries": 3, "concurrency": 16} | limits)
    endpoint = ChatEndpoint(url, "THE_KEY", body={"extra": 1, "temperature": None}, limits=settings)
    replies: dict[int, Reply] = {}

    def keep(number: int, reply: Reply) -> None:
        assert number not in replies
        replies[number] = reply

    tally = Tally()
    endpoint.chat(requests, "the/model", keep, tally)
    return replies, tally


def test_every_reply_is_right_and_every_loss_is_counted() -> None:
    with faulty_chat(answer, faults_of) as server:
        replies, tally = asked(server.url)
    lost = {number for number in range(45) if number % len(FAULTS) >= 7}
    assert set(replies) == set(range(45)) - lost
    for number, reply in replies.items():
        assert (reply.content, reply.prompt_tokens, reply.reply_tokens) == (f"{number} by {number}", 10, 5)
    assert len({reply.reasoning for reply in replies.values()}) == len(replies)
    assert tally.answered == len(replies)
    assert tally.refused == {'status 400: {"error": {"message": "too long"}}': len(lost) // 2}
    assert tally.failed == {'status 500: {"error": {"message": "broken"}}': len(lost) // 2}
    # A text that is refused is not sent again, all else is, three times at most.
    by_faults = dict(zip(FAULTS, [1, 2, 3, 2, 3, 1, 2, 1, 4], strict=True))
    assert tally.attempts == len(server.bodies) == sum(by_faults[faults_of(one.body)] for one in REQUESTS)
    assert 1 < server.most_busy <= 16
    assert server.keys == {"Bearer secret"}
    first = server.bodies[0]
    assert first | {"messages": 0, "seed": 0} == {
        "model": "the/model", "max_tokens": 50, "extra": 1, "messages": 0, "seed": 0
    }  # fmt: skip


def test_who_is_told_to_wait_waits_and_so_do_all_others() -> None:
    with faulty_chat(answer, lambda body: ("wait",) if number_of(body) == 0 else ()) as server:
        start = time.monotonic()
        replies, _ = asked(server.url, concurrency=2)
    assert len(replies) == 45
    assert server.times[-1] - start >= 0.3
    gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert max(gaps) >= 0.25  # with one request in flight beside it, nobody else went on


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("no key", r"^http://.*/v1/chat/completions: status 401: .*; is the key in THE_KEY right\?$"),
        (
            "broken",
            r"16 requests in a row got no reply, the last one for status 500.*what was replied before is",
        ),
        ("too long", r"16 requests in a row got no reply, the last one for status 400"),
    ],
)
def test_a_server_that_never_answers_is_given_up(fault: str, told: str) -> None:
    with faulty_chat(answer, lambda _: (fault,) * 9) as server, pytest.raises(UserError, match=told):
        asked(server.url)


def test_nobody_at_the_address_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty_chat(answer) as server:
        url = server.url
    with pytest.raises(
        UserError, match=r"16 requests in a row got no reply, the last one for ClientConnector"
    ):
        asked(url, retries=1)
    monkeypatch.delenv("THE_KEY")
    with pytest.raises(UserError, match=r"^engine\.key_variable: the environment has no THE_KEY; set it to"):
        asked(url)


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("THE_KEY", r"; is the key in THE_KEY right\?$"),
        (None, r"; no key was sent; set engine\.key_variable to the environment variable that holds it$"),
    ],
)
def test_a_refused_key_is_traced_to_its_setting(variable: str | None, told: str) -> None:
    tally = Tally()
    with faulty_chat(answer, lambda _: ("no key",)) as server, pytest.raises(UserError, match=told):
        ChatEndpoint(server.url, variable).chat(REQUESTS[:1], "m", lambda *_: None, tally)
    assert (tally.requests, tally.attempts, tally.answered, tally.faults) == (1, 1, 0, {"status 401": 1})


def test_a_reply_that_takes_too_long_is_asked_for_again() -> None:
    with faulty_chat(answer, lambda _: ("slow",)) as server:
        replies, tally = asked(server.url, REQUESTS[:4], timeout=0.1)
    assert (len(replies), tally.attempts) == (4, 8)
    assert (tally.faults, tally.lost) == ({"time-out": 4}, {})


@pytest.mark.parametrize(("minute", "told"), [(0.0, 2), (60.0, 0)])
def test_what_is_asked_again_for_long_is_told(
    minute: float, told: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chat_client, "_MINUTE", minute)
    with faulty_chat(answer, lambda _: ("broken", "broken")) as server, caplog.at_level("WARNING", "katlit"):
        asked(server.url, REQUESTS[:1])
    lines = [f"{server.url}/chat/completions: 0 replies in {n} attempts so far; the last err" for n in (1, 2)]
    assert len(caplog.messages) == told
    assert all(said.startswith(line) for said, line in zip(caplog.messages, lines, strict=False))


def test_a_long_wait_is_told_at_once_with_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chat_client, "_MINUTE", 0.25)
    with faulty_chat(answer, lambda _: ("wait",)) as server, caplog.at_level("WARNING", "katlit"):
        before = time.time()
        asked(server.url, REQUESTS[:1])
    (told,) = caplog.messages
    ends = [time.strftime("%Y-%m-%d %H:%M", time.localtime(at + 0.3)) for at in (before, time.time())]
    asks = f"{server.url}/chat/completions: wants no request for 0:00:00 (Retry-After), so this goes on at "
    assert told in {f'{asks}{end}; the error: status 429: {{"error": {{"message": "wait"}}}}' for end in ends}


def test_a_long_wait_is_told_once_by_all_that_are_in_flight(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = ChatClient("url", None, 1.0, 1, 1.0, None, None)
    queue = Queue((), 2, "m", {}, lambda *_: None, known=False, tally=Tally())
    for now in (5.0, 6.0, 86406.0):  # the last one after the wait
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        client._leave_alone(queue, 86400.0, "quota")
    assert [told.count("wants no request for 1 day, 0:00:00") for told in caplog.messages] == [1, 1]
    assert queue.rest == 2 * 86400.0 + 6


def test_a_short_wait_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with faulty_chat(answer, lambda _: ("wait",)) as server, caplog.at_level("WARNING", "katlit"):
        asked(server.url, REQUESTS[:1])
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("86400", 86400.0), ("0.5", 0.5), ("0", 0.0), ("-1", None), ("nan", None), ("1e300", None),
     ("Wed, 21 Oct 2026 07:28:00 GMT", None), (None, None)],
)  # fmt: skip
def test_seconds_that_a_server_asks_for(said: str | None, seconds: float | None) -> None:
    assert seconds_of(said) == seconds


def test_halves_of_characters_are_marked_and_whole_ones_stay() -> None:
    said, kept = "\ufeffa \ud83d 😀 \ude00", "\ufeffa \ufffd 😀 \ufffd"
    call = {"name": said, "arguments": f'{{"a": "{said}"}}'}
    message = {"content": said, "reasoning_content": said, "tool_calls": [{"function": call}]}
    with faulty_chat(lambda _: dict(message)) as server:
        replies, _ = asked(server.url, REQUESTS[:1])
    assert (replies[0].content, replies[0].reasoning) == (kept, kept)
    assert replies[0].tool_calls == [{"name": kept, "arguments": f'{{"a": "{kept}"}}'}]


def test_the_pace_leaves_no_minute_more_than_its_limit() -> None:
    pace, now, starts = Pace(120), 0.0, []
    for _ in range(600):
        starts.append(now + pace.reserve(1, now))
        now += 0.01
    assert starts[:3] == pytest.approx([0.0, 0.5, 1.0])
    assert all(sum(first <= start < first + 60 for start in starts) <= 120 for first in starts)
    tokens = Pace(6000)
    assert tokens.reserve(1000, 5.0) == 0
    tokens.correct(-900)  # it took 100 only
    assert tokens.reserve(1000, 5.0) == pytest.approx(1.0)
    assert Pace(None).reserve(1e9, 3.0) == 0
    assert Pace(None).reserve(1e9, 3.0) == 0


def test_requests_a_minute_are_kept() -> None:
    with faulty_chat(answer) as server:
        asked(server.url, REQUESTS[:6], requests_per_minute=1200)
    assert server.times[-1] - server.times[0] >= 5 * 60 / 1200 - 0.02


def test_waits_grow_and_are_spread() -> None:
    random = Random(0)
    for attempt, most in ((1, 1), (2, 2), (3, 4), (9, 30)):
        drawn = [backoff(attempt, 30.0, random) for _ in range(200)]
        assert 0.1 * most <= min(drawn) < 0.2 * most
        assert 0.9 * most < max(drawn) <= most


def test_it_serves_labelling_only() -> None:
    endpoint = ChatEndpoint("http://host/v1/", None, prices=TokenPrices(2.0, 8.0))
    assert endpoint.url == "http://host/v1"
    assert endpoint.cost(1_000_000, 500_000) == 6.0
    with pytest.raises(UserError, match=r"^engine: katlit\.engines\.ChatEndpoint knows text only"):
        endpoint.generate([[1]], SamplingParameters())
    with pytest.raises(UserError, match=r"^engine\.url: 'host'; give http://"):
        ChatEndpoint("host")
    with pytest.raises(UserError, match=r"^limits\.timeout: 0; give a number above 0"):
        EndpointLimits(timeout=0)
