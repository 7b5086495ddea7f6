"""A line to an OpenAI-compatible server that stays open while others decide what to ask next."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

import aiohttp

from katlit.engines.chat_client import ChatClient, ChatRequest, Lost, Queue
from katlit.engines.chat_reply import Reply
from katlit.engines.chat_tally import Tally


class ChatLine:
    """Sends single requests, so many at a time; an asynchronous context manager.

    Args:
        client: What talks to the server.
        more: What the body of every request has more.
        concurrency: Requests in flight; the others wait, the first ones first.
    """

    def __init__(self, client: ChatClient, more: Mapping[str, Any], concurrency: int) -> None:
        self._client = client
        self._more = more
        self._concurrency = concurrency
        self._queues: dict[str, Queue] = {}
        self._gate = asyncio.Semaphore(concurrency)
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None

    def tally(self, model: str) -> Tally:
        """Return what became of the requests to a model."""
        return self._queue(model).tally

    def _queue(self, model: str) -> Queue:
        if model not in self._queues:
            queue = Queue((), self._concurrency, model, self._more, _keep_nothing, known=False, tally=Tally())
            self._queues[model] = queue
        return self._queues[model]

    async def __aenter__(self) -> "ChatLine":
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    async def ask(self, model: str, request: ChatRequest, *, known: bool) -> Reply | Lost:
        """Ask until there is a reply.

        Args:
            model: Name of the model.
            request: What is asked.
            known: Whether the server has answered such requests before, so that it may refuse any number.

        Returns:
            The reply, or why there is none.

        Raises:
            UserError: where the server refuses the key, or answers nothing that is a reply.
        """
        queue = self._queue(model)
        message = self._client.write(queue, request)
        async with self._gate:
            if self._session is None:  # what is known already needs no server and no key
                self._session = await self._stack.enter_async_context(self._client.session())
            queue.known = queue.known or known
            return await self._client.ask(self._session, queue, message)


def _keep_nothing(number: int, reply: Reply) -> None:
    """Whoever asks gets the reply."""
