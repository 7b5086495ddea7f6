"""Requests of many agents to an engine of this process, gathered into batches."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from katlit.datamodules.labelling.chat_model import Request
from katlit.datamodules.labelling.engine_model import EngineModel

_GATHER = 0.005  # seconds in which those that were replied to may ask again, before the next batch


@dataclass(slots=True)
class _Waiting:
    """A request of a model in this process, and who waits for its reply."""

    model: EngineModel
    request: Request
    reply: "asyncio.Future[Any]"


class Batches:
    """Gathers the requests to an engine of this process into batches, one model after the other.

    While the engine samples, nothing else goes on in this process. Another model is loaded only when no query
    can go on without it, since that may take a minute.

    Args:
        all_wait: Tells whether every query that is worked on waits for an engine of this process.
    """

    def __init__(self, all_wait: Callable[[], bool]) -> None:
        self._all_wait = all_wait
        self._waiting: list[_Waiting] = []
        self._loaded: EngineModel | None = None
        self._work: asyncio.Task[None] | None = None

    async def ask(self, model: EngineModel, request: Request) -> Any:
        """Have a model reply, together with what else waits for it."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(model, request, reply))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
            self._work.add_done_callback(_retrieve)
        return await reply

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER)
            if self._must_load() and not self._all_wait():
                continue
            batch = self._next()
            try:
                found = self._sampled(batch)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 (whoever waits raises it)
                self._fail([*batch, *self._waiting], error)
                return
            for one, said in zip(batch, found, strict=True):
                if not one.reply.done():
                    one.reply.set_result(said)

    def _fail(self, waiting: Sequence[_Waiting], error: BaseException) -> None:
        self._waiting = []
        for one in waiting:
            if not one.reply.done():
                one.reply.set_exception(error)

    @property
    def number(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def _must_load(self) -> bool:
        loaded = self._loaded
        return loaded is not None and all(one.model is not loaded for one in self._waiting)

    def _next(self) -> list[_Waiting]:
        """All that waits for the model that is loaded, else for another, with the first one's sampling."""
        first = next((one for one in self._waiting if one.model is self._loaded), self._waiting[0])
        kind = first.model, first.request.sampling
        batch = [one for one in self._waiting if (one.model, one.request.sampling) == kind]
        self._waiting = [one for one in self._waiting if (one.model, one.request.sampling) != kind]
        return batch

    def _sampled(self, batch: Sequence[_Waiting]) -> list[Any]:
        model = batch[0].model
        if self._loaded is not None and self._loaded is not model:
            self._loaded.release()
        self._loaded = model
        with _interruptible():
            return model.answer([one.request for one in batch])


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end what does not give way to the loop, which would look at it after the batch only."""
    before = signal.getsignal(signal.SIGINT)
    loops = isinstance(before, partial) and isinstance(getattr(before.func, "__self__", None), asyncio.Runner)
    if not loops:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _retrieve(task: "asyncio.Task[None]") -> None:
    """Look at what ended a task: only Ctrl-C can have, and asyncio would print where it came."""
    if not task.cancelled():
        task.exception()
