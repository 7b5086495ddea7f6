"""How the requests of many agents at a time get to their models, and what was replied before does not."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules.agents.batches import Batches
from katlit.datamodules.agents.roles import THINKING, Part
from katlit.datamodules.agents.synthesis import NoReplyError, Said
from katlit.datamodules.labelling.chat_model import ChatModel, Request
from katlit.datamodules.labelling.endpoint_model import EndpointModel
from katlit.datamodules.labelling.engine_model import EngineModel
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.engines.chat_client import Lost
from katlit.engines.chat_endpoint import ChatEndpoint
from katlit.engines.chat_line import ChatLine


@dataclass(slots=True)
class Voice:
    """An agent that can be asked: a model, and how it is sampled."""

    model: ChatModel
    sampling: SamplingParameters


class Voices:
    """All agents; an asynchronous context manager, for the lines to their servers.

    Args:
        teams: The agents by what they do, in each team.
    """

    def __init__(self, teams: Sequence[Mapping[Part, Voice]]) -> None:
        self._teams = teams
        self._all = [voice for team in teams for voice in team.values()]
        self.asked = 0  # requests that were not known
        self._lines: dict[int, ChatLine] = {}  # of each endpoint, by its identity
        self._batches: dict[int, Batches] = {}
        self._stack = AsyncExitStack()
        self._known: set[int] = set()  # models that have replied, by their identity
        self._working = 0  # queries

    async def __aenter__(self) -> "Voices":
        await self._stack.__aenter__()
        for voice in self._all:
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
        for model in {id(voice.model): voice.model for voice in self._all}.values():
            if isinstance(model, EndpointModel):
                model.hang_up(self._lines[id(model.engine)])
        await self._stack.__aexit__(kind, error, traceback)

    @contextmanager
    def query(self) -> Iterator[None]:
        """Count a query as one that is worked on."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1

    def _all_wait(self) -> bool:
        return sum(batches.number for batches in self._batches.values()) == self._working

    async def ask(
        self, prompt: Prompt, team: int, part: Part, messages: list[dict[str, Any]], seed: int
    ) -> Said:
        """Have an agent reply, unless it is known what it replied.

        Args:
            prompt: The query, for the tools that it offers.
            team: Which team the agent is of.
            part: What the agent does.
            messages: What it is told.
            seed: Seed of the reply.

        Raises:
            NoReplyError: where there is no reply.
        """
        voice, thinking = self._teams[team][part], THINKING[part]
        model = voice.model
        told = Prompt(**{**prompt, "messages": messages})
        if part not in (Part.SOLVER, Part.THINKER, Part.ANSWERER):
            told.pop("tools", None)
        request = model.phrase(told, thinking, voice.sampling, seed)
        key = request.key
        said = model.recall(key)
        if said is None:
            said = await self._send(model, request)
            self.asked += 1
            model.keep(key, said)
            await asyncio.sleep(0)  # the next request goes out before more is done with this reply
        self._known.add(id(model))
        reply = model.read(said, thinking, told)
        return Said(reply, model.prompt_tokens(request.asked, said))

    async def _send(self, model: ChatModel, request: Request) -> Any:
        if not model.fits(request):
            raise NoReplyError("context", "it does not fit the model's context", refused=True)
        if isinstance(model, EndpointModel):
            said = await model.ask(self._lines[id(model.engine)], request, known=id(model) in self._known)
            if isinstance(said, Lost):
                raise NoReplyError(said.kind, said.reason, refused=said.refused)
            return said
        if not isinstance(model, EngineModel):
            raise TypeError(type(model).__name__)
        return await self._batches.setdefault(id(model.engine), Batches(self._all_wait)).ask(model, request)
