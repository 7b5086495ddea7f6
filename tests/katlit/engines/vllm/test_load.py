import re
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from fake_vllm import Fake, reply

from katlit.engines import SamplingParameters
from katlit.engines.vllm.load import Load
from katlit.engines.vllm.server import client
from katlit.metrics.tally import Tally

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="policy"} 12.0
vllm:num_requests_running{engine="1",model_name="policy"} 8.0
vllm:num_requests_waiting{engine="0",model_name="policy"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="policy"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="policy"} 6.25e-02
"""


def test_the_mean_of_the_sequences_and_the_fullest_cache() -> None:
    load, other = Load(), Load()
    load.see_metrics(METRICS)
    load.see_metrics('{"is_paused": false}')  # says nothing of it
    load.see_metrics(re.sub(r"running(.*) [\d.]+$", r"running\1 0.0", METRICS, flags=re.MULTILINE))  # not yet
    other.see(0.125, 4)
    load.add(other)
    assert load.statistics() == {
        "throughput/kv_cache_use": Tally(0.25, 1),
        "throughput/sequences_in_flight": Tally(24.0, 2),
    }


def test_what_was_never_looked_at_counts_for_nothing() -> None:
    assert all(tally == Tally(0.0, 0) for tally in Load().statistics().values())


def test_a_server_is_looked_at_while_it_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_PROBE_SECONDS", 0.01)
    monkeypatch.setattr(client, "_PROBE_SECONDS", 0.02)
    looked, load, fake = threading.Event(), Load(), Fake()

    def metrics(handler: BaseHTTPRequestHandler, _: Any) -> None:
        reply(handler, METRICS)
        if sum(path == "/metrics" for path, _ in fake.said) == 3:  # so two answers were read
            looked.set()

    def slow(handler: BaseHTTPRequestHandler, body: Any) -> Any:
        assert looked.wait(30)
        return fake.completion(body)

    fake.answers |= {"/metrics": metrics, "/inference/v1/generate": slow}
    thread = threading.Thread(target=fake.serve_forever, daemon=True)
    thread.start()
    asks = client.ServerClient(fake.url, 5.0, 60.0, 5.0, 1)
    request, sampling = client.SeededPrompt([1], 2), SamplingParameters(max_tokens=2)
    asks.generate({0: request}, sampling, fake.version, lambda *_: None, threading.Event(), load)
    fake.shutdown()
    fake.server_close()
    thread.join()
    assert load.looks >= 2
    assert load == Load(load.looks, 20.0 * load.looks, 0.25)
