"""What becomes of answers that no vLLM server gives, and of no answers; the server is a small fake one."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from fake_vllm import CONFIG, Fake, reply
from transformers import PreTrainedModel

from katlit.engines import SamplingParameters, VLLMServer
from katlit.engines.vllm.options import ServerOptions, ServerTimeouts
from katlit.engines.vllm.plugin import BACKEND
from katlit.errors import UserError

QUICK = ServerTimeouts(start=10.0, hang=5.0, request=3.0, control=10.0, close=1.0)
TWO = SamplingParameters(max_tokens=2)


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def engine(fake: Fake, qwen2_directory: Path) -> Iterator[VLLMServer]:
    joined = VLLMServer(url=fake.url, timeouts=QUICK, max_concurrent_requests=3)
    joined.start(qwen2_directory)
    yield joined
    joined.close()


def test_completions_come_in_the_order_of_the_prompts_a_few_at_a_time(fake: Fake, engine: VLLMServer) -> None:
    together = threading.Barrier(3)

    def slow(handler: BaseHTTPRequestHandler, body: Any) -> Any:
        with fake.lock:
            fake.in_flight += 1
            fake.most_in_flight = max(fake.most_in_flight, fake.in_flight)
        together.wait(30)
        time.sleep(0.05 if body["token_ids"][0] % 2 else 0.01)
        with fake.lock:
            fake.in_flight -= 1
        return fake.completion(body)

    fake.answers["/inference/v1/generate"] = slow
    sampling = SamplingParameters(temperature=0.7, top_p=0.9, top_k=5, max_tokens=2, stop_token_ids=[4])
    completions = engine.generate([[i, 1] for i in range(12)], sampling, range(100, 112))
    assert [c.token_ids for c in completions] == [[i, 100 + i] for i in range(12)]
    assert fake.most_in_flight == 3
    _, body = next(said for said in fake.said if said[0] == "/inference/v1/generate")
    assert body["sampling_params"] == {
        "temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 2, "stop_token_ids": [4],
        "ignore_eos": True, "seed": 100 + body["token_ids"][0], "logprobs": 0, "detokenize": False,
    }  # fmt: skip


def test_weights_are_replaced_while_the_server_is_paused(
    fake: Fake, engine: VLLMServer, build_model: Callable[..., PreTrainedModel]
) -> None:
    fake.said.clear()
    engine.sync_weights(build_model("qwen2", True).state_dict().items())
    assert [path for path, _ in fake.said] == [
        "/pause?mode=wait", "/update_weight_version", "/start_weight_update", "/update_weights",
        "/finish_weight_update", "/reset_prefix_cache", "/update_weight_version", "/resume",
    ]  # fmt: skip


def drip(handler: BaseHTTPRequestHandler, body: Any) -> None:
    """A byte now and then, for ever."""
    reply(handler, "{", length=10_000)
    try:
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


def cut(handler: BaseHTTPRequestHandler, body: Any) -> None:
    reply(handler, '{"choices": [', length=10_000)
    handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler, body: Any) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def no_http(handler: BaseHTTPRequestHandler, body: Any) -> None:
    handler.wfile.write(b"\x00\x01\x02 SSH-2.0-OpenSSH_9.6\r\n")
    handler.close_connection = True


def changed(**changes: Any) -> Callable[[Any, Any], Any]:
    return lambda handler, body: handler.server.completion(body, **changes)


FAULTS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "web page": (lambda h, _: reply(h, "<html>Welcome!</html>"), "answers '<html>Welcome!</html>', which no"),
    "nothing": (lambda h, _: reply(h, ""), "answers 'null', which no vLLM"),
    "list": (lambda *_: [1, 2], r"answers '\[1, 2\]', which no vLLM"),
    "no choices": (lambda *_: {"choices": []}, "which no vLLM"),
    "no tokens": (changed(token_ids=[]), "which no vLLM"),
    "too many tokens": (
        changed(token_ids=[1] * 3, logprobs={"content": [{"token_id": 1, "logprob": -1.0}] * 3}),
        "which no vLLM",
    ),
    "null log-probabilities": (changed(logprobs=None), "which no vLLM"),
    "log-probability that is none": (
        changed(token_ids=[1], logprobs={"content": [{"token_id": 1, "logprob": float("nan")}]}),
        "which no vLLM",
    ),
    "other tokens": (changed(token_ids=[5, 6]), "which no vLLM"),
    "text for tokens": (
        changed(token_ids=["a"], logprobs={"content": [{"token_id": "a", "logprob": -1.0}]}), "which no vLLM",
    ),
    "unknown end": (changed(finish_reason="tired"), "which no vLLM"),
    "aborted": (changed(finish_reason="abort", token_ids=[], logprobs=None), "ended by 'abort'"),
    "other weights": (changed(weight_versions=[{"version": "other"}]), r"with weights \['other'\]"),
    "no weights": (changed(weight_versions=None), "which no vLLM"),
    "no figures of drafts": (
        lambda h, body: h.server.completion(body) | {"metrics": {"speculative_decoding": {"other": 1}}},
        "which no vLLM",
    ),
    "broken": (lambda h, _: reply(h, "EngineDeadError", 500), "answers status 500: EngineDeadError"),
    "refused": (lambda h, _: reply(h, "token out of range", 400), "answers status 400: token out of range"),
    "not found": (lambda h, _: reply(h, "Not Found", 404), "404: Not Found; it needs vLLM 0.32 with"),
    "cut off": (cut, "ClientPayloadError"),
    "hung up": (hang_up, "ServerDisconnectedError"),
    "no HTTP": (no_http, "which no vLLM"),
    "for ever": (drip, r"did not answer within 3 s \(request_timeout\)"),
    "never": (lambda *_: time.sleep(4), r"did not answer within 3 s \(request_timeout\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_answer_is_one_clear_line_in_bounded_time(fake: Fake, engine: VLLMServer, name: str) -> None:
    fake.answers["/inference/v1/generate"], expected = FAULTS[name]
    started = time.monotonic()
    with pytest.raises(UserError, match=expected) as caught:
        engine.generate([[1], [2], [3], [4]], TWO)
    assert time.monotonic() - started < 20
    assert str(caught.value).startswith(f"vLLM server: {fake.url}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_server_that_hangs_is_noticed_before_the_requests_are_late(
    fake: Fake, qwen2_directory: Path
) -> None:
    patient = ServerTimeouts(hang=0.5)
    engine = VLLMServer(url=fake.url, timeouts=patient)
    engine.start(qwen2_directory)
    stuck = threading.Event()
    fake.answers["/inference/v1/generate"] = fake.answers["/is_paused"] = lambda *_: stuck.wait(60) and None
    started = time.monotonic()
    with pytest.raises(UserError, match=r"/is_paused did not answer within 0.5 s"):
        engine.generate([[1]], TWO)
    assert time.monotonic() - started < 20
    stuck.set()
    engine.close()


def test_closing_ends_what_another_thread_samples(fake: Fake, qwen2_directory: Path) -> None:
    asked, over = threading.Event(), threading.Event()

    def never(handler: BaseHTTPRequestHandler, body: Any) -> None:
        asked.set()
        over.wait()

    fake.answers["/inference/v1/generate"] = never
    engine = VLLMServer(url=fake.url, timeouts=ServerTimeouts(close=1.0))
    engine.start(qwen2_directory)

    def sample() -> None:
        with pytest.raises(UserError, match="closed while it sampled"):
            engine.generate([[1]], TWO)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    assert asked.wait(60)
    engine.close()
    thread.join(60)
    over.set()
    assert not thread.is_alive()


def test_a_server_that_refuses_connections_is_one_clear_line(qwen2_directory: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        engine = VLLMServer(url=url, timeouts=QUICK)
        with pytest.raises(UserError, match=rf"^vLLM server: {url}/server_info.* check the url"):
            engine.start(qwen2_directory)


@pytest.mark.parametrize("path", ["/pause", "/start_weight_update", "/update_weights", "/resume"])
def test_weights_that_the_server_does_not_take_are_an_error(
    fake: Fake, engine: VLLMServer, build_model: Callable[..., PreTrainedModel], path: str
) -> None:
    weights = build_model("qwen2", True).state_dict()
    fake.answers[path] = lambda handler, _: reply(handler, "shape mismatch", 500)
    with pytest.raises(UserError, match=rf"{path}\S* answers status 500: shape mismatch"):
        engine.sync_weights(weights.items())
    if path == "/update_weights":
        with pytest.raises(UserError, match=r"with weights \['before "):
            engine.generate([[1]], TWO)
    del fake.answers[path]
    engine.sync_weights(weights.items())
    assert len(engine.generate([[1]], TWO)) == 1


def test_a_left_out_weight_never_reaches_the_server(
    fake: Fake, engine: VLLMServer, build_model: Callable[..., PreTrainedModel]
) -> None:
    weights = build_model("qwen2", True).state_dict()
    fake.said.clear()
    with pytest.raises(UserError, match=r"missing, first 'lm_head\.weight'"):
        engine.sync_weights((name, weight) for name, weight in weights.items() if name != "lm_head.weight")
    assert fake.said == []
    assert len(list(engine._folder.glob("*/config.json"))) == 1
    assert len(engine.generate([[1]], TWO)) == 1


def test_a_full_disk_is_an_error_after_all_weights_were_gathered(
    fake: Fake,
    engine: VLLMServer,
    build_model: Callable[..., PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("katlit.engines.weights.shutil.copy", full)
    weights = iter(build_model("qwen2", True).state_dict().items())
    with pytest.raises(UserError, match=r"No space left on device; give `directory` room"):
        engine.sync_weights(weights)
    assert list(weights) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("logprobs_mode", "raw_logprobs"),
        ("hf_overrides", {}),
        ("max_model_len", 100),
        ("speculative_config", {"method": "mtp"}),
    ],
)
def test_a_server_with_other_settings_is_not_joined(
    fake: Fake, qwen2_directory: Path, key: str, value: object
) -> None:
    one = {key: value}
    other = CONFIG | (one if key in CONFIG else {"model_config": CONFIG["model_config"] | one})
    fake.answers["/server_info"] = lambda *_: {"vllm_config": other}
    engine = VLLMServer(url=fake.url, timeouts=QUICK)
    with pytest.raises(UserError, match=f"{fake.url} runs with {key}"):
        engine.start(qwen2_directory)


def test_settings_are_checked(tmp_path: Path, qwen2_directory: Path) -> None:
    with pytest.raises(UserError, match="url: 'localhost:8000'"):
        VLLMServer(url="localhost:8000")
    with pytest.raises(UserError, match="max_concurrent_requests: 0"):
        VLLMServer(max_concurrent_requests=0)
    drafting: dict[str, Any] = {"options": ServerOptions(speculative_tokens=1)}
    for settings in ({"url": "http://localhost:8000"}, {"backend": "nccl"}):
        with pytest.raises(UserError, match=r"options\.speculative_tokens: 1, but only a server that is st"):
            VLLMServer(**settings, **drafting)
    with pytest.raises(UserError, match=r"speculative_tokens: the model has no MTP modules"):
        VLLMServer(**drafting).start(qwen2_directory)
    with pytest.raises(UserError, match=r"timeouts\.hang: 0"):
        ServerTimeouts(hang=0)
    with pytest.raises(UserError, match=r"no config\.json"):
        VLLMServer().start(tmp_path)
    with pytest.raises(UserError, match=r"directory: .*/missing is no folder"):
        VLLMServer(directory=tmp_path / "missing").start(qwen2_directory)
    with pytest.raises(UserError, match=r"log_file: .*/missing/log; its folder is missing"):
        ServerOptions(log_file=tmp_path / "missing/log").command_line(tmp_path, 150, BACKEND, 1, 0)
