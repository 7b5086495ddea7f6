"""The server of the documented command, started on a model and ended with all its processes."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def serving(model: str, log: Path, *options: str) -> Iterator[str]:
    """Its URL, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    size = ["--max-num-seqs=4", f"--kv-cache-memory-bytes={2**27}", "--dtype=float32", "--enforce-eager"]
    with log.open("w") as file:
        running = subprocess.Popen(
            [*module, *size, *options, "--host=127.0.0.1", f"--port={port}"],
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
    """Stop it, and its engine if that is still there."""
    server.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(timeout=30)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def answers(url: str) -> bool:
    """Whether there is a server that is well."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (our own URL)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
