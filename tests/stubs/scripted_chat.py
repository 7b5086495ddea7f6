"""An OpenAI-compatible server that says what a test tells it to."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Script = list[Any]  # chunks (dicts), raw lines (str), or functions to call in between


class ScriptedChat(ThreadingHTTPServer):
    """Streams its scripts, one a request, and notes what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = "the/model"
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.scripts: list[Script | tuple[int, str]] = []

    def handle_error(self, *_: object) -> None:
        """Be silent where a client hangs up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def scripted_chat() -> Iterator[ScriptedChat]:
    """A server that runs."""
    with ScriptedChat() as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def delta(finish: str | None = None, **words: str) -> dict[str, Any]:
    """A chunk of a stream as vLLM writes it."""
    return {"choices": [{"index": 0, "delta": words, "finish_reason": finish}], "usage": None}


def reply(thought: str, answer: str, tokens: int, finish: str = "stop") -> Script:
    """A whole stream, a character a chunk."""
    parts: Script = [delta(role="assistant", content="")]
    parts += [delta(reasoning=letter) for letter in thought]
    parts += [delta(content=letter) for letter in answer]
    return [*parts, delta(finish), {"choices": [], "usage": {"completion_tokens": tokens}}, "data: [DONE]"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedChat

    def log_message(self, *words: object) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, json.dumps({"data": [{"id": self.server.model}]}))
        else:
            self._send(200 if self.path == "/health" else 404, "")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.append(self.headers["Authorization"])
        self.server.asked.append({"path": self.path} | body)
        script = self.server.scripts.pop(0)
        if isinstance(script, tuple):
            self._send(*script)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for step in script:
            if isinstance(step, Callable):
                step()
            else:
                self._chunk(step if isinstance(step, str) else f"data: {json.dumps(step)}")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        data = f"{text}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())
