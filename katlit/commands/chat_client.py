"""What `katlit chat` says to an OpenAI-compatible server: a conversation in, a streamed reply out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit

from katlit.errors import UserError
from katlit.text.parser import Thinking
from katlit.text.printable import short_line

_DATA = "data:"  # starts an event of the stream
# What it leads to that an answer is not what it should be.
_GARBAGE = (ValueError, LookupError, AttributeError, TypeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a reply; most have one of these only."""

    reasoning: str = ""
    content: str = ""
    finish_reason: str | None = None
    tokens: int | None = None  # of the whole reply, thinking included


class ChatClient:
    """Talks to one server, without any proxy.

    Args:
        url: Address of the server, `http://host:port` or with `/v1`.
        key: Key that the server asks for; None, or an empty one, sends none.
        timeout: Seconds that the server may be silent.

    Raises:
        UserError: for a URL of another kind, or a key that cannot be sent.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 600.0) -> None:
        parts = _parts(url)
        if key and not (key.isascii() and key.isprintable()):
            raise UserError("VLLM_API_KEY: has characters that no key has, a line break perhaps; mend it")
        self.url = url
        self._timeout = timeout
        self._secure = parts.scheme == "https"
        self._address = parts.netloc.rpartition("@")[2]
        self._root = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def model(self) -> str:
        """The name of the first model that the server has.

        Raises:
            UserError: where it does not answer, or not as an OpenAI-compatible server.
        """
        with self._asked("GET", "/models", None) as answer:
            text = answer.read().decode(errors="replace")
        try:
            return str(json.loads(text)["data"][0]["id"])
        except _GARBAGE:
            raise self._garbage(text) from None

    def reply(self, model: str, messages: Sequence[Mapping[str, str]], thinking: Thinking) -> Iterator[Part]:
        """Stream the reply to a conversation; sampled as the server does by default.

        Args:
            model: Name of the model.
            messages: Turns with `role` and `content`.
            thinking: Leave the mode to the model (auto) or force it.

        Raises:
            UserError: where the server does not answer, refuses, or breaks off.
        """
        body: dict[str, Any] = {"model": model, "messages": list(messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        if thinking != "auto":
            body["chat_template_kwargs"] = {"thinking": thinking}
        complete = False
        with self._asked("POST", "/chat/completions", body) as answer:
            for line in answer:
                text = line.decode(errors="replace").strip()
                if not text.startswith(_DATA):
                    continue
                event = text.removeprefix(_DATA).strip()
                part = Part(finish_reason="stop") if event == "[DONE]" else self._part(event)
                complete = complete or part.finish_reason is not None
                if event != "[DONE]":
                    yield part
        if not complete:  # the library takes a connection that is cut within a stream for its end
            raise UserError(f"{self.url}: the reply broke off; is the server up?")

    def _part(self, event: str) -> Part:
        try:
            content = json.loads(event)
            if "error" in content:
                raise UserError(f"{self.url}: {_complaint(event)}")
            usage = content.get("usage") or {}
            choice = (content.get("choices") or [{}])[0]
            delta = choice.get("delta") or {}
            tokens = usage.get("completion_tokens")
            return Part(
                # vLLM's name; other servers' for the same
                reasoning=_text(delta.get("reasoning") or delta.get("reasoning_content")),
                content=_text(delta.get("content")),
                finish_reason=_text(choice.get("finish_reason")) or None,
                tokens=tokens if isinstance(tokens, int) else None,
            )
        except _GARBAGE:
            raise self._garbage(event) from None

    @contextmanager
    def _asked(self, method: str, path: str, body: Any) -> Iterator[HTTPResponse]:
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._address, timeout=self._timeout)
        try:
            connection.request(
                method, self._root + path, None if body is None else json.dumps(body), self._headers
            )
            answer = connection.getresponse()
            if answer.status != 200:
                text = answer.read().decode(errors="replace")
                raise UserError(f"{self.url}: status {answer.status}: {_complaint(text)}")
            yield answer
        except (OSError, HTTPException) as error:
            raise UserError(
                f"{self.url}: no answer ({short_line(str(error)) or type(error).__name__}); is the server up?"
            ) from error
        finally:
            connection.close()

    def _garbage(self, text: str) -> UserError:
        return UserError(f"{self.url}: answers {short_line(text)!r}, as no OpenAI-compatible server would")


def _complaint(text: str) -> str:
    """What a server says of a request that it refuses."""
    try:
        error = json.loads(text)
        error = error.get("error", error)
        return short_line(str(error.get("message", error) if isinstance(error, dict) else error), 300)
    except _GARBAGE:
        return short_line(text)


def _parts(url: str) -> SplitResult:
    """The parts of a server's address."""
    try:
        parts = urlsplit(url)
        # Host and port are read only when they are asked for.
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            parts.hostname.encode("idna")
            return parts
    except ValueError:
        pass  # as any other that is none
    raise UserError(f"{url}: no URL of a server; give http://host:port")


def _text(value: Any) -> str:
    """A text of an answer, where there is one."""
    if not isinstance(value, str | None):
        raise TypeError
    return value or ""
