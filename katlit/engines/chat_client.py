"""What is said to an OpenAI-compatible server, by the hundred: conversations in, replies out."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple

import aiohttp

from katlit.engines.chat_reply import NO_REPLY, Reply, read_reply
from katlit.engines.chat_tally import Tally
from katlit.engines.pace import Pace, backoff, seconds_of
from katlit.errors import UserError
from katlit.text.printable import short_line

logger = logging.getLogger(__name__)

_PATH = "/chat/completions"
_AGAIN = {408, 409, 425, 429}  # and 5xx: another attempt may do
_OURS = {400, 413, 422}  # of this one request: the text may be too long, or forbidden
_MINUTE = 60.0  # between two warnings of what is asked again; so long a wait is told at once
_HOPELESS = 16  # requests in a row without a reply, or all that are in flight if these are more


class ChatRequest(NamedTuple):
    """A conversation as the body of a request has it, and how the reply is drawn."""

    body: Mapping[str, Any]
    seed: int


class Message(NamedTuple):
    """A request as it is sent."""

    data: bytes
    max_tokens: float


class Lost(NamedTuple):
    """Why a request has no reply."""

    reason: str
    refused: bool  # by the server, so that another time will not do
    kind: str


class _AttemptError(Exception):
    """An attempt failed; `kind` is the status, or what came in its place."""

    def __init__(self, kind: str, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait = wait


class _AgainError(_AttemptError):
    """The next attempt may do; `wait` is what the server asks for, in seconds."""


class _RefusedError(_AttemptError):
    """The server refuses this one request."""


@dataclass(slots=True)
class Queue:
    """Requests that are on their way."""

    waiting: Any  # numbers and requests, which all workers draw from
    workers: int
    model: str
    more: Mapping[str, Any]
    keep: Callable[[int, Reply], None]
    known: bool  # whether the server has answered such requests before
    tally: Tally
    tokens: float = 0.0  # of all replies, with their prompts
    told: float = field(default_factory=time.monotonic)  # when its start, or an error, was told
    rest: float = 0.0  # until when the server is left alone, by the monotonic clock


class ChatClient:
    """Talks to one server.

    Args:
        url: Address, with the version.
        key_variable: Environment variable with the key.
        timeout: Seconds for one attempt.
        retries: Attempts after the first one.
        longest_wait: Most seconds between two, unless the server asks for more.
        requests_per_minute: Limit of requests.
        tokens_per_minute: Limit of tokens; what a request will take is reserved as the mean so far.
    """

    def __init__(
        self,
        url: str,
        key_variable: str | None,
        timeout: float,
        retries: int,
        longest_wait: float,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
    ) -> None:
        self._url = url + _PATH
        self._key_variable = key_variable
        self._timeout = timeout
        self._retries = retries
        self._longest = longest_wait
        self._requests = Pace(requests_per_minute)
        self._tokens = Pace(tokens_per_minute)
        self._random = Random()  # noqa: S311 (jitter)

    def chat(
        self,
        requests: Sequence[ChatRequest],
        model: str,
        more: Mapping[str, Any],
        concurrency: int,
        keep: Callable[[int, Reply], None],
        known: bool,
        tally: Tally,
    ) -> None:
        """Send all requests; see `katlit.engines.ChatEndpoint.chat`.

        Args:
            requests: What is asked.
            model: Name of the model.
            more: What every body has more.
            concurrency: Requests in flight.
            keep: Receives each reply with the number of its request.
            known: Whether such requests have been answered before; a server that refuses some then is none
                that never answers.
            tally: Counts what becomes of them.
        """
        workers = min(concurrency, len(requests))
        queue = Queue(iter(enumerate(requests)), workers, model, more, keep, known, tally)
        try:
            asyncio.run(self._run(queue))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _run(self, queue: Queue) -> None:
        async with self.session() as session, asyncio.TaskGroup() as group:
            for _ in range(queue.workers):
                group.create_task(self._work(session, queue))

    def session(self) -> aiohttp.ClientSession:
        """Return a new session, of the running loop."""
        key = self._key()
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connector = aiohttp.TCPConnector(limit=0)
        no_limit = aiohttp.ClientTimeout(total=None)
        return aiohttp.ClientSession(connector=connector, timeout=no_limit, headers=headers)

    def _key(self) -> str | None:
        if self._key_variable is None:
            return None
        key = os.environ.get(self._key_variable, "").strip()
        if not key:
            raise UserError(
                f"engine.key_variable: the environment has no {self._key_variable}; set it to the key of "
                f"{self._url}, or key_variable to null where none is needed"
            )
        return key

    async def _work(self, session: aiohttp.ClientSession, queue: Queue) -> None:
        for number, request in queue.waiting:
            reply = await self.ask(session, queue, self.write(queue, request))
            if isinstance(reply, Reply):
                queue.keep(number, reply)

    def write(self, queue: Queue, request: ChatRequest) -> Message:
        """Write a request of a queue out; what waits for its turn can then go at once."""
        body = {"model": queue.model} | dict(request.body) | {"seed": request.seed} | dict(queue.more)
        body = {name: value for name, value in body.items() if value is not None}
        return Message(json.dumps(body).encode(), float(body.get("max_tokens", 0)))

    async def ask(self, session: aiohttp.ClientSession, queue: Queue, message: Message) -> Reply | Lost:
        """Ask until there is a reply, and count; return it, or why there is none in the end.

        Args:
            session: See `session`.
            queue: What the request is one of.
            message: The request.
        """
        reply = await self._reply(session, queue, message)
        if isinstance(reply, Lost):
            (queue.tally.refused if reply.refused else queue.tally.failed)[reply.reason] += 1
            queue.tally.lost[reply.kind] += 1
            if not (reply.refused and (queue.known or queue.tally.answered)):
                queue.tally.lost_in_a_row += 1
            if queue.tally.lost_in_a_row >= max(_HOPELESS, queue.workers):
                raise UserError(
                    f"{self._url}: {queue.tally.lost_in_a_row} requests in a row got no reply, the last "
                    f"one for {reply.reason}; what was replied before is kept, so mend that and run again"
                )
        return reply

    async def _reply(self, session: aiohttp.ClientSession, queue: Queue, message: Message) -> Reply | Lost:
        for attempt in range(1, self._retries + 2):
            reserved = await self._wait_for_turn(queue, message.max_tokens)
            queue.tally.requests += attempt == 1
            try:
                reply = await self._attempt(session, queue, message.data)
            except _AttemptError as error:
                queue.tally.faults[error.kind] += 1
                lost = Lost(str(error), isinstance(error, _RefusedError), error.kind)
                if lost.refused:
                    return lost
                self._tell(queue, lost.reason)
                pause = backoff(attempt, self._longest, self._random)
                if error.wait is not None:
                    pause += error.wait
                    self._leave_alone(queue, error.wait, lost.reason)
                if attempt <= self._retries:
                    await asyncio.sleep(pause)
                continue
            used = reply.prompt_tokens + reply.reply_tokens
            self._tokens.correct(used - reserved)
            queue.tokens += used
            queue.tally.answered += 1
            queue.tally.lost_in_a_row = 0
            return reply
        return lost

    def _tell(self, queue: Queue, reason: str) -> None:
        """Say once in a while what keeps the replies away: all attempts together may take hours."""
        now, tally = time.monotonic(), queue.tally
        if now - queue.told >= _MINUTE:
            queue.told = now
            told = "%s: %d replies in %d attempts so far; the last error: %s"
            logger.warning(told, self._url, tally.answered, tally.attempts, reason)

    def _leave_alone(self, queue: Queue, seconds: float, reason: str) -> None:
        """Let all requests wait, for the server means all of us; say once that it takes a minute or more."""
        now = time.monotonic()
        until = now + seconds
        if seconds >= _MINUTE <= until - queue.rest:  # those in flight are told the same
            queue.told = now
            told = "%s: wants no request for %s (Retry-After), so this goes on at %s; the error: %s"
            again = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
            logger.warning(told, self._url, timedelta(seconds=int(seconds)), again, reason)
        queue.rest = max(queue.rest, until)

    async def _wait_for_turn(self, queue: Queue, most: float) -> float:
        """Wait as the limits and the server want it; the tokens that are reserved, at first the most."""
        answered = queue.tally.answered
        reserved = queue.tokens / answered if answered else most
        now = time.monotonic()
        wait = max(self._requests.reserve(1, now), self._tokens.reserve(reserved, now))
        if wait > 0:
            await asyncio.sleep(wait)
        while (rest := queue.rest - time.monotonic()) > 0:
            await asyncio.sleep(rest + backoff(1, 1.0, self._random))
        return reserved

    async def _attempt(self, session: aiohttp.ClientSession, queue: Queue, data: bytes) -> Reply:
        queue.tally.attempts += 1
        try:
            async with asyncio.timeout(self._timeout), session.post(self._url, data=data) as answer:
                status, text = answer.status, await answer.text(errors="replace")
        except TimeoutError:
            raise _AgainError("time-out", f"no answer within {self._timeout:g} s (limits.timeout)") from None
        except aiohttp.InvalidURL as error:
            raise UserError(f"engine.url: {self._url}: {error}; give http://host:port/v1") from None
        except (aiohttp.ClientError, OSError) as error:
            said = f"{type(error).__name__} {short_line(str(error))}".strip()
            raise _AgainError("no connection", said) from None
        if status != 200:
            raise self._fault(queue.tally, status, text, answer.headers.get("Retry-After"))
        try:
            return read_reply(text)
        except NO_REPLY:
            raise _AgainError("no reply", f"an answer that is no reply: {short_line(text)!r}") from None

    def _fault(self, tally: Tally, status: int, text: str, retry_after: str | None) -> Exception:
        kind, said = f"status {status}", f"status {status}: {short_line(text)}"
        if status in _AGAIN or status >= 500:
            return _AgainError(kind, said, seconds_of(retry_after))
        if status in _OURS:
            return _RefusedError(kind, said)
        tally.faults[kind] += 1
        hint = f"; {self._key_hint()}" if status in (401, 403) else "; check the url"
        return UserError(f"{self._url}: {said}{hint}")

    def _key_hint(self) -> str:
        if self._key_variable is None:
            return "no key was sent; set engine.key_variable to the environment variable that holds it"
        return f"is the key in {self._key_variable} right?"
