"""An OpenAI-compatible server that fails as servers do, by the content of a request, and counts requests."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = str
"""busy, wait (with Retry-After), broken, garbage, no reply, dropped, slow, too long, no key."""


class FaultyChat(ThreadingHTTPServer):
    """Answers after some faults.

    Args:
        faults: What happens to a body before it is answered, attempt by attempt.
        answer: The message that is the reply to it.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self,
        faults: Callable[[dict[str, Any]], Sequence[Fault]],
        answer: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults = faults
        self.answer = answer
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.attempts: Counter[str] = Counter()  # of each body
        self.times: list[float] = []
        self.busy = self.most_busy = 0

    def handle_error(self, *_: object) -> None:
        """Be silent where a client hangs up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def faulty_chat(
    answer: Callable[[dict[str, Any]], dict[str, Any]],
    faults: Callable[[dict[str, Any]], Sequence[Fault]] = lambda _: (),
) -> Iterator[FaultyChat]:
    """A server that runs."""
    with FaultyChat(faults, answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def content_hash(body: dict[str, Any]) -> int:
    """A number that depends on all of a body."""
    return int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), 16)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyChat

    def log_message(self, *words: object) -> None:
        """Be silent."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, key = self.server, str(content_hash(body))
        with server.lock:
            server.bodies.append(body)
            server.times.append(time.monotonic())
            server.keys.add(self.headers["Authorization"])
            attempt = server.attempts[key]
            server.attempts[key] += 1
            server.busy += 1
            server.most_busy = max(server.busy, server.most_busy)
        faults = server.faults(body)
        self._respond(body, faults[attempt] if attempt < len(faults) else "")
        with server.lock:
            server.busy -= 1

    def _respond(self, body: dict[str, Any], fault: Fault) -> None:
        if fault == "dropped":
            self.close_connection = True
            self.connection.close()
            return
        if fault == "slow":
            time.sleep(0.2)
        statuses = {"busy": 429, "wait": 429, "broken": 500, "too long": 400, "no key": 401}
        if fault in statuses:
            self._send(statuses[fault], json.dumps({"error": {"message": fault}}), fault == "wait")
        elif fault == "garbage":
            self._send(200, "<html>")
        elif fault == "no reply":
            self._send(200, json.dumps({"choices": []}))
        else:
            message = self.server.answer(body)
            finish = message.pop("finish_reason", "stop")
            usage = {"prompt_tokens": 10, "completion_tokens": 5}
            self._send(
                200, json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})
            )

    def _send(self, status: int, text: str, wait: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        if wait:
            self.send_header("Retry-After", "0.3")
        self.end_headers()
        self.wfile.write(text.encode())
