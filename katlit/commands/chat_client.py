"""What `katlit chat` says to an OpenAI-compatible server: a conversation in, a streamed reply out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from katlit.errors import UserError
from katlit.text.parser import Thinking
from katlit.text.printable import short_line

_DATA = "data:"  # starts an event of the stream


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
        key: Key that the server asks for; None sends none.
        timeout: Seconds that the server may be silent.

    Raises:
        UserError: for a URL of another kind.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 600.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url}: no URL of a server; give http://host:port")
        self.url = url
        self._timeout = timeout
        self._secure = parts.scheme == "https"
        self._address = parts.netloc.rpartition("@")[2]
        self._root = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = {"Content-Type": "application/json"}
        if key is not None:
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
        except (ValueError, KeyError, IndexError, TypeError):
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
        with self._asked("POST", "/chat/completions", body) as answer:
            for line in answer:
                text = line.decode(errors="replace").strip()
                if text.startswith(_DATA) and (event := text.removeprefix(_DATA).strip()) != "[DONE]":
                    yield self._part(event)

    def _part(self, event: str) -> Part:
        try:
            content = json.loads(event)
            if "error" in content:
                raise UserError(f"{self.url}: {_complaint(event)}")
            usage = content.get("usage") or {}
            choice = (content.get("choices") or [{}])[0]
            delta = choice.get("delta") or {}
            return Part(
                # vLLM's name; other servers' for the same
                reasoning=delta.get("reasoning") or delta.get("reasoning_content") or "",
                content=delta.get("content") or "",
                finish_reason=choice.get("finish_reason"),
                tokens=usage.get("completion_tokens"),
            )
        except (ValueError, AttributeError, TypeError):
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
    except (ValueError, AttributeError):
        return short_line(text)
