"""A fake of vLLM's server, for what a real one would not do on demand."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from katlit.engines.vllm.plugin import BACKEND

CONFIG = {
    "model_config": {
        "logprobs_mode": "processed_logprobs",
        "hf_overrides": {"tie_word_embeddings": False},
        "max_model_len": 2048,
    },
    "weight_transfer_config": {"backend": BACKEND},
    "speculative_config": None,
    "parallel_config": {"worker_extension_cls": ""},
}


class Fake(ThreadingHTTPServer):
    """Answers as vLLM 0.32 does, and notes what it is told; a test replaces some answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.said: list[tuple[str, Any]] = []
        self.version = "default"
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler, Any], Any]] = {}
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Be silent where a client hangs up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def completion(self, body: Any, **changes: Any) -> dict[str, Any]:
        tokens = [body["token_ids"][0], body["sampling_params"]["seed"]]
        choice = {
            "finish_reason": "length",
            "token_ids": tokens,
            "weight_versions": [{"version": self.version, "start": 0, "end": 2}],
            "logprobs": {"content": [{"token_id": token, "logprob": -0.5} for token in tokens]},
        }
        return {"choices": [choice | changes]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Fake

    def log_message(self, *words: object) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        path = self.path.partition("?")[0]
        self.server.said.append((self.path, body))
        if path in self.server.answers:
            answer = self.server.answers[path](self, body)
        elif path == "/update_weight_version":
            self.server.version, answer = body["new_version"], {}
        elif path == "/inference/v1/generate":
            answer = self.server.completion(body)
        else:
            answer = {"is_paused": False, "vllm_config": CONFIG}
        if answer is not None:
            reply(self, json.dumps(answer))


def reply(handler: BaseHTTPRequestHandler, text: str, status: int = 200, length: int | None = None) -> None:
    content = text.encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)
