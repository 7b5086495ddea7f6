"""Labels by several agents: tagged queries, drafts that are expanded and criticized, reasons for the mode."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from katlit.batch import Prompt
from katlit.datamodules.agents import templates
from katlit.datamodules.agents.estimate import cost_of, log_estimate
from katlit.datamodules.agents.modes import modes_of
from katlit.datamodules.agents.queries import Query, Tagged, query_of, tag
from katlit.datamodules.agents.record import record_of_outcome
from katlit.datamodules.agents.report import log_outcomes, reject_all, report_rows, tell_unused, trace_rows
from katlit.datamodules.agents.roles import Part, Role, Team, require_roles
from katlit.datamodules.agents.routes import Route, route_of, teams_of
from katlit.datamodules.agents.runner import Verifier, require_all, run_all, settled
from katlit.datamodules.agents.synthesis import Ask, Outcome, Verify, synthesize
from katlit.datamodules.agents.voices import Voice, Voices
from katlit.datamodules.labelling.base import Labeller
from katlit.datamodules.labelling.chat_model import ChatModel
from katlit.datamodules.labelling.endpoint_model import EndpointModel
from katlit.datamodules.labelling.json_answers import json_records
from katlit.datamodules.records import Record
from katlit.datamodules.tagging import PAPER_THINK_SHARE, RuleTagger, choose_modes
from katlit.engines.base import RolloutEngine
from katlit.errors import require
from katlit.rewards import Reward
from katlit.text.protocol import Mode

logger = logging.getLogger(__name__)

_RULES = RuleTagger()
_FIRST = 100  # queries by which the cost of the others is estimated
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class ThreeAgents(Labeller):
    """Tags queries, and lets a solver, a thinker and a critic make their responses (recipe §2).

    Think-on: the solver drafts, the thinker expands and corrects the draft into a full chain, the verifier
    and the critic send it back with their reasons, `rounds` times at most. Think-off: the answerer answers
    directly, until an answer is verified, or approved by the critic where there is no reference. A query
    without such a response is dropped and counted. Beside the records there are two files: `traces-…` holds
    what each agent said, `agents-…` counts by source and agent what was kept, and why the rest was not.

    The three roles and the share of think-on are the paper's, all else is our choice.

    Args:
        thinker: Who makes a full chain of thought of the draft.
        solver: Who drafts; null: nobody, then the thinker answers the conversation as it is, as a model that
            reasons by itself can, and has a template only if it is given one.
        critic: Who scores by the rubric; null: the verifier alone decides, and where there is no reference
            any well-formed response is kept.
        answerer: Who answers directly; null: the solver, or else the thinker, by the conversation as it is.
        writer: Who writes why a query has its mode; null: a default text says it.
        tagger: Who votes on what a query needs; null: `rules` say it.
        votes: Votes of the tagger on each query.
        rules: Tags queries that no vote can be read of, and all without a tagger.
        think_share: Share of the queries that think (the paper's mix); null: those that the tags say need it.
        think_share_by_domain: Shares of domains that are to have another one.
        epsilon: Share of the queries that get a random mode instead, so that each mode sees every kind of
            query, see `DualRegime`.
        rubric: What the critic scores by, from 1 to 5.
        approve: Least score of what is kept.
        rounds: Most attempts of the thinker, and of the answerer.
        routes: Queries whose tags have other agents answer; the first one that takes a query counts.
        same_script: Whether replies must be in a script of the question or its reference.
        unsaid: Words that no chain of thought may have unless its question has them.
        forced: Share of the records whose mode is forced by prefill, see `DualRegime`.
        json_share: Share of the verified records that come once more, asking for a JSON object, see
            `DualRegime`.
        seed: Seed of all sampling.
    """

    def __init__(
        self,
        *,
        thinker: Role,
        solver: Role | None = None,
        critic: Role | None = None,
        answerer: Role | None = None,
        writer: Role | None = None,
        tagger: Role | None = None,
        votes: int = 5,
        rules: RuleTagger = _RULES,
        think_share: float | None = PAPER_THINK_SHARE,
        think_share_by_domain: dict[str, float] | None = None,
        epsilon: float = 0.0,
        rubric: str = templates.RUBRIC,
        approve: int = 4,
        rounds: int = 3,
        routes: list[Route] | None = None,
        same_script: bool = True,
        unsaid: Sequence[str] = ("draft", "objection", "objections"),
        forced: float = 0.5,
        json_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        require(votes >= 1, "votes", votes, "at least 1")
        for name, share in {"epsilon": epsilon, "forced": forced, "json_share": json_share}.items():
            require(0 <= share <= 1, name, share, "a share from 0 to 1")
        if think_share is not None:
            choose_modes([], think_share_by_domain, seed, think_share)  # refuses what is no share
        by_tags = think_share is None and bool(think_share_by_domain)
        require(not by_tags, "think_share_by_domain", think_share_by_domain, "none where think_share is null")
        roles = require_roles(
            {
                Part.TAGGER: tagger, Part.SOLVER: solver, Part.THINKER: thinker, Part.CRITIC: critic,
                Part.ANSWERER: answerer or replace(solver or thinker, template=None), Part.WRITER: writer,
            }
        )  # fmt: skip
        self.team = Team(roles, rubric, approve, rounds, same_script, tuple(unsaid), seed)
        self.routes = routes or []
        self.teams = teams_of(self.team, self.routes)
        self.votes = votes
        self.rules = rules
        self.think_share = think_share
        self.think_share_by_domain = think_share_by_domain or {}
        self.epsilon = epsilon
        self.forced = forced
        self.json_share = json_share
        every = [role for team in self.teams for role in team.roles.values()]
        self._kinds = list(dict.fromkeys((role.model, role.engine) for role in every))
        self._asked = 0  # requests whose replies were not known
        self._estimated = False
        self._queries: dict[str, Query] = {}
        self._made: list[tuple[Query, Outcome]] = []

    def models(self) -> list[str]:
        """Return the models of all roles, each once."""
        return [model for model, _ in self._kinds]

    def engines(self) -> list[RolloutEngine | None]:
        """Return what each of the models is reached by; None for the engine of the data."""
        return [engine for _, engine in self._kinds]

    def settings(self) -> dict[str, Any]:
        """Return all but the names of the models and what they are reached by."""
        models, *others = [
            {part.value: self._number(role) for part, role in team.roles.items()} for team in self.teams
        ]
        routes = [
            route.settings() | team.settings() | {"models": numbers}
            for route, team, numbers in zip(self.routes, self.teams[1:], others, strict=True)
        ]
        own = {
            "votes": self.votes, "rules": vars(self.rules), "forced": self.forced, "models": models,
            "shares": [self.think_share, self.think_share_by_domain],
            "contexts": [engine.max_context for engine in self.engines() if engine is not None],
        }  # fmt: skip
        later = {"routes": routes, "epsilon": self.epsilon, "json_share": self.json_share}
        # What is off is left out: records from before there was such a thing keep their key.
        return self.team.settings() | own | {name: value for name, value in later.items() if value}

    def _number(self, role: Role) -> int:
        """The place of a role's model in `models()`."""
        return self._kinds.index((role.model, role.engine))

    def check(self, prompts: Sequence[Prompt], models: Sequence[ChatModel]) -> None:
        """Refuse what a chat template cannot write, and budgets that leave no room."""
        super().check(prompts, models)
        for team in self._voices(models):
            for voice in team.values():
                voice.model.engine.require_room(voice.sampling)

    def survey(self, prompts: Sequence[Prompt], models: Sequence[ChatModel], accuracy: Reward) -> None:
        """Tag the queries, and choose which of them think; of many, say first what the work will cost."""
        if len(prompts) > _FIRST and not self._estimated:
            self._estimated = True
            self._estimate(prompts, models, accuracy)
        queries = self._choose(prompts, models, accuracy)
        require_all(models, [query.tagged.failed for query in queries])
        if not any(model.partial for model in models):
            domains = {query.tagged.merged.tags.domain for query in queries}
            tell_unused("think_share_by_domain", self.think_share_by_domain, domains)
            tell_unused("routes", (name for route in self.routes for name in route.domains), domains)
        self._queries = {query.prompt["id"]: query for query in queries}

    def _choose(
        self, prompts: Sequence[Prompt], models: Sequence[ChatModel], accuracy: Reward
    ) -> list[Query]:
        """Have the queries tagged, and choose their modes and verifiers."""
        tagged = self._work(models, accuracy, self._tag, prompts, "agents: tags")
        modes = modes_of(
            prompts, [each.merged for each in tagged],
            self.think_share, self.think_share_by_domain, self.epsilon, self.team.seed,
        )  # fmt: skip
        return [
            query_of(
                prompt,
                each,
                mode,
                self.rules,
                accuracy.reference_problem,
                route_of(self.routes, each.merged.tags),
            )
            for prompt, each, mode in zip(prompts, tagged, modes, strict=True)
        ]

    def _estimate(self, prompts: Sequence[Prompt], models: Sequence[ChatModel], accuracy: Reward) -> None:
        """Finish the first queries, and say what they took and what the others will.

        Their modes are those that they would have without the others, so a few may get another one later.
        """
        start, before = time.monotonic(), self._asked
        queries = self._choose(prompts[:_FIRST], models, accuracy)
        outcomes = self._work(models, accuracy, self._synthesize, queries, "agents: the first queries")
        engines = [
            {part: voice.model.engine for part, voice in team.items()} for team in self._voices(models)
        ]
        cost = cost_of(list(zip(queries, outcomes, strict=True)), engines)
        seconds = time.monotonic() - start if self._asked > before else None
        log_estimate(cost, self._asked - before, seconds, _FIRST, len(prompts) - _FIRST)

    def label(self, prompts: Sequence[Prompt], models: Sequence[ChatModel], accuracy: Reward) -> list[Record]:
        """Let the agents work on all queries at once."""
        start = time.monotonic()
        queries = [self._queries[prompt["id"]] for prompt in prompts]
        outcomes = self._work(models, accuracy, self._synthesize, queries, "agents")
        require_all(models, [outcome.failed for outcome in outcomes])
        self._made = list(zip(queries, outcomes, strict=True))
        asked = [{part: voice.model for part, voice in team.items()} for team in self._voices(models)]
        reject_all(self._made, asked)
        records = [
            record_of_outcome(query, outcome, self.teams[query.team], self.forced)
            for query, outcome in self._made
            if outcome.reply is not None
        ]
        log_outcomes(self._made, time.monotonic() - start)
        return records + json_records(records, accuracy, self.json_share, self.team.seed)

    def beside(self) -> dict[str, Iterable[dict[str, Any]]]:
        """Return the traces of all queries, and what was counted."""
        models = [{part: role.model for part, role in team.roles.items()} for team in self.teams]
        return {"traces": trace_rows(self._made, models), "agents": report_rows(self._made, models)}

    def _voices(self, models: Sequence[ChatModel]) -> list[dict[Part, Voice]]:
        """The agents of each team."""
        return [
            {part: Voice(models[self._number(role)], role.sampling) for part, role in team.roles.items()}
            for team in self.teams
        ]

    def _work(
        self,
        models: Sequence[ChatModel],
        accuracy: Reward,
        work: Callable[[Voices, Verifier, ItemT], Awaitable[ResultT]],
        items: Sequence[ItemT],
        name: str,
    ) -> list[ResultT]:
        """Work on all items with the agents at hand."""
        # Queries whose engine is of this process end by the batch, which tells its own progress.
        told = name if any(isinstance(model, EndpointModel) for model in models) else None

        async def run() -> list[ResultT]:
            async with Voices(self._voices(models)) as voices:
                done = await run_all(items, partial(work, voices, verifier), told)
            self._asked += voices.asked
            return done

        with ExitStack() as stack:
            for model in models:
                stack.enter_context(model)
            verifier = stack.enter_context(Verifier(accuracy))
            stack.enter_context(settled())
            return asyncio.run(run())

    async def _tag(self, voices: Voices, _: Verifier, prompt: Prompt) -> Tagged:
        with voices.query():
            return await tag(prompt, self.team, self.votes, self.rules, partial(voices.ask, prompt, 0))

    async def respond(self, prompt: Prompt, mode: Mode, team: Team, ask: Ask, verify: Verify) -> Outcome:
        """Find a response to a query; a subclass may have another way.

        Args:
            prompt: The query; without a reference where nothing can check an answer.
            mode: Whether the response is to think.
            team: The agents, as the routes have them for this query.
            ask: Has an agent reply.
            verify: Judges an answer by the reference.
        """
        return await synthesize(prompt, mode, team, ask, verify)

    async def _synthesize(self, voices: Voices, verifier: Verifier, query: Query) -> Outcome:
        prompt = query.judged
        verify = partial(verifier.verify, prompt)
        with voices.query():
            team, ask = self.teams[query.team], partial(voices.ask, prompt, query.team)
            return await self.respond(prompt, query.mode, team, ask, verify)
