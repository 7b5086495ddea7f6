"""How the requests of many agents at a time get to their models, and what was replied before does not."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules.agents.roles import THINKING, Part
from katlit.datamodules.agents.synthesis import NoReplyError, Said
from katlit.datamodules.labelling.chat_model import ChatModel, Request
from katlit.datamodules.labelling.endpoint_model import EndpointModel
from katlit.datamodules.labelling.engine_model import EngineModel
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.engines.chat_client import Lost
from katlit.engines.chat_endpoint import ChatEndpoint
from katlit.engines.chat_line import ChatLine

_GATHER = 0.005  # seconds in which those that were replied to may ask again, before the next batch


@dataclass(slots=True)
class Spent:
    """What replies have taken; what was known before took nothing now."""

    requests: int = 0
    asked_now: int = 0
    prompt_tokens: int = 0
    reply_tokens: int = 0


@dataclass(slots=True)
class _Waiting:
    """A request of a model in this process, and who waits for its reply."""

    model: EngineModel
    request: Request
    reply: "asyncio.Future[Any]"


class _Batches:
    """Gathers the requests to an engine of this process into batches, one model after the other.

    While the engine samples, nothing else goes on in this process.
    """

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._loaded: EngineModel | None = None
        self._work: asyncio.Task[None] | None = None

    async def ask(self, model: EngineModel, request: Request) -> Any:
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(model, request, reply))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())
        return await reply

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(_GATHER)
            batch = self._next()
            try:
                for each, said in zip(batch, self._sampled(batch), strict=True):
                    if not each.reply.done():
                        each.reply.set_result(said)
            except BaseException as error:
                for each in [*batch, *self._waiting]:
                    if not each.reply.done():
                        each.reply.set_exception(error)
                self._waiting = []
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise

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
        return model.answer([one.request for one in batch])


@dataclass(slots=True)
class Voice:
    """An agent that can be asked: a model, how it is sampled, and what it has taken so far."""

    model: ChatModel
    sampling: SamplingParameters
    spent: Spent = field(default_factory=Spent)


class Voices:
    """All agents; an asynchronous context manager, for the lines to their servers.

    Args:
        voices: The agents by what they do.
    """

    def __init__(self, voices: dict[Part, Voice]) -> None:
        self.voices = voices
        self._lines: dict[int, ChatLine] = {}  # of each endpoint, by its identity
        self._batches: dict[int, _Batches] = {}
        self._stack = AsyncExitStack()
        self._known = False

    async def __aenter__(self) -> "Voices":
        await self._stack.__aenter__()
        for voice in self.voices.values():
            engine: RolloutEngine = voice.model.engine
            if isinstance(engine, ChatEndpoint) and id(engine) not in self._lines:
                self._lines[id(engine)] = await self._stack.enter_async_context(engine.open_line())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for model in {id(voice.model): voice.model for voice in self.voices.values()}.values():
            if isinstance(model, EndpointModel):
                model.hang_up(self._lines[id(model.engine)])
        await self._stack.__aexit__(kind, error, traceback)

    async def ask(self, prompt: Prompt, part: Part, messages: list[dict[str, Any]], seed: int) -> Said:
        """Have an agent reply, unless it is known what it replied.

        Args:
            prompt: The query, for the tools that it offers.
            part: What the agent does.
            messages: What it is told.
            seed: Seed of the reply.

        Raises:
            NoReplyError: where there is no reply.
        """
        voice, thinking = self.voices[part], THINKING[part]
        model = voice.model
        told = Prompt(**{**prompt, "messages": messages})
        if part not in (Part.SOLVER, Part.THINKER, Part.ANSWERER):
            told.pop("tools", None)
        request = model.phrase(told, thinking, voice.sampling, seed)
        key = request.key
        said = model.recall(key)
        if said is None:
            voice.spent.asked_now += 1
            said = await self._send(model, request)
            model.keep(key, said)
        self._known = True
        reply = model.read(said, thinking, told)
        tokens = model.prompt_tokens(request.asked, said)
        voice.spent.requests += 1
        voice.spent.prompt_tokens += tokens
        voice.spent.reply_tokens += reply.tokens
        return Said(reply, tokens)

    async def _send(self, model: ChatModel, request: Request) -> Any:
        if not model.fits(request):
            raise NoReplyError("it does not fit the model's context", refused=True)
        if isinstance(model, EndpointModel):
            said = await model.ask(self._lines[id(model.engine)], request, known=self._known)
            if isinstance(said, Lost):
                raise NoReplyError(said.reason, refused=said.refused)
            return said
        if not isinstance(model, EngineModel):
            raise TypeError(type(model).__name__)
        return await self._batches.setdefault(id(model.engine), _Batches()).ask(model, request)
