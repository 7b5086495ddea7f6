"""The documented vLLM server says of a teacher what transformers says."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from tinymodel import QWEN, tiny_backbone

from katlit.errors import UserError
from katlit.teacher.hf import HFScorer
from katlit.teacher.scorer import Transcript
from katlit.teacher.server import VLLMServerScorer

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(600)]
K = 12
WIDER = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}  # vLLM wants heads of 32
TRANSCRIPTS = [
    Transcript([(13 * i + j * j) % 250 for j in range(2 + 3 * i)], 1 + i) for i in range(12)
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("teacher")
    backbone = tiny_backbone(directory, QWEN | WIDER, seed=3)
    backbone.materialize()
    backbone.export(directory / "model")
    return str(directory / "model")


@pytest.fixture(scope="module")
def server(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL; ended with all its processes."""
    pytest.importorskip("vllm", exc_type=ImportError)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    size = ["--max-model-len=64", "--max-num-seqs=4", f"--kv-cache-memory-bytes={2**27}", "--dtype=float32"]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", teacher]
        running = subprocess.Popen(
            [*module, f"--max-logprobs={K}", *size, "--enforce-eager", "--host=127.0.0.1", f"--port={port}"],
            env=os.environ | {"TORCHDYNAMO_DISABLE": "1"}, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        while not answers(f"{url}/health"):
            assert running.poll() is None, log.read_text()[-4000:]
            time.sleep(0.5)
        yield url
    finally:
        end(running)


def end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(timeout=30)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # its engine, if it is still there
    server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (our own URL)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_server_says_what_transformers_says(server: str, teacher: str) -> None:
    local, remote = HFScorer(device="cpu"), VLLMServerScorer(server)
    local.start(teacher)
    remote.start(teacher)
    for ours, theirs in zip(local.score(TRANSCRIPTS, K), remote.score(TRANSCRIPTS, K), strict=True):
        assert (-np.diff(ours.log_probs[:, :K])).min() > 1e-6  # so that rounding changes no order
        assert ours.ids.tolist() == theirs.ids.tolist()
        np.testing.assert_allclose(theirs.log_probs, ours.log_probs, atol=1e-4)


def test_a_server_that_was_started_for_less_is_refused(server: str, teacher: str) -> None:
    scorer = VLLMServerScorer(server)
    scorer.start(teacher)
    with pytest.raises(UserError, match=rf"status 400: .*with --max-logprobs {K + 1}"):
        scorer.score(TRANSCRIPTS, K + 1)
    scorer.start("another")
    with pytest.raises(UserError, match="it must serve 'another'"):
        scorer.score(TRANSCRIPTS, K)
