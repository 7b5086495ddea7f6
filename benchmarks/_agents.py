"""Agents whose errors are known: what each says is drawn by chance, and its tokens are set."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from katlit.batch import Prompt
from katlit.datamodules.agents.roles import Part, Role, Team
from katlit.datamodules.agents.synthesis import Said, synthesize
from katlit.datamodules.labelling.chat_model import Reply
from katlit.metrics.bootstrap import interval, resampled_means
from katlit.rewards import Verdict
from katlit.text.protocol import Mode, ParsedResponse

QUERIES = 3000
RIGHT, WRONG = "the sum is even", "the sum is odd"
QUESTION, DRAFT, CHAIN, VERDICT, WORDS = 80, 120, 600, 40, 60  # tokens; words are those of a template
TEAM = Team({part: Role("scripted") for part in (Part.SOLVER, Part.THINKER, Part.CRITIC)})
PROMPT = Prompt(
    id="q", messages=[{"role": "user", "content": "What kind of sum is it?"}], reference="",
    verifier="match", domain="", difficulty=1, metadata={},
)  # fmt: skip


@dataclass(frozen=True)
class Errors:
    """How often the agents are right.

    Attributes:
        solves: Share of right drafts and of right chains without a draft.
        mends: Share of wrong drafts that the thinker corrects.
        spoils: Share of right drafts that it makes wrong.
        accepts: Share of wrong chains that the critic approves of.
        rejects: Share of right chains that it sends back.
    """

    solves: float
    mends: float
    spoils: float
    accepts: float
    rejects: float


@dataclass(frozen=True)
class Result:
    """What became of a query: whether a response was kept and is right, and all tokens read and written."""

    kept: bool
    right: bool
    tokens: int


def said(think: str, answer: str, prompt_tokens: int, tokens: int) -> Said:
    """A reply."""
    mode = Mode.THINK_ON if think else Mode.THINK_OFF
    return Said(Reply(ParsedResponse("", mode, think, answer, None), {}, tokens, False), prompt_tokens)


class Script:
    """The agents of one query, drawn by chance."""

    def __init__(self, errors: Errors, random: Random) -> None:
        self.errors = errors
        self.random = random

    def draft(self) -> bool:
        """Whether a draft is right."""
        return self.random.random() < self.errors.solves

    def mended(self, right: bool) -> bool:
        """Whether a chain is right, after a draft that was or was not."""
        return self.random.random() < (1 - self.errors.spoils if right else self.errors.mends)

    def approved(self, right: bool) -> bool:
        """Whether the critic approves of a chain."""
        return self.random.random() < (1 - self.errors.rejects if right else self.errors.accepts)

    async def ask(
        self,
        part: Part,
        messages: list[dict[str, Any]],
        seed: int,  # noqa: ARG002 (chance is the script's)
    ) -> Said:
        """Reply as an agent, going by what it is told."""
        told = messages[-1]["content"]
        if part is Part.SOLVER:
            return said("", RIGHT if self.draft() else WRONG, QUESTION + WORDS, DRAFT)
        if part is Part.THINKER:
            right = self.mended(RIGHT in told)
            return said("Step by step.", RIGHT if right else WRONG, QUESTION + WORDS + DRAFT, CHAIN)
        score = 5 if self.approved(RIGHT in told) else 2
        words = f'{{"score": {score}, "reasons": "so"}}'
        return said("", words, QUESTION + WORDS + CHAIN, VERDICT)


async def _nobody(_: Reply) -> Verdict:
    raise AssertionError("there is no reference to verify by")


async def loop(script: Script) -> Result:
    """The factory's own way: a draft, its expansion, the critic, up to three rounds."""
    outcome = await synthesize(PROMPT, Mode.THINK_ON, TEAM, script.ask, _nobody)
    tokens = sum(step.prompt_tokens + step.tokens for step in outcome.steps)
    reply = outcome.reply
    return Result(reply is not None, reply is not None and reply.parsed.answer == RIGHT, tokens)


async def single(script: Script) -> Result:
    """One chain without a draft, kept as it is."""
    return Result(True, script.draft(), QUESTION + CHAIN)


async def filtered(script: Script) -> Result:
    """Up to three fresh chains, the first that the critic approves of; none learns from the one before."""
    tokens = 0
    for _ in range(TEAM.rounds):
        right = script.draft()
        tokens += QUESTION + CHAIN + (QUESTION + WORDS + CHAIN + VERDICT)
        if script.approved(right):
            return Result(True, right, tokens)
    return Result(False, False, tokens)


ARMS: dict[str, Callable[[Script], Awaitable[Result]]] = {
    "single": single,
    "filtered": filtered,
    "loop": loop,
}


async def arm(name: str, errors: Errors) -> list[Result]:
    """Answer all queries in one way."""
    return [await ARMS[name](Script(errors, Random(f"{name}/{n}"))) for n in range(QUERIES)]  # noqa: S311


def summary(results: list[Result]) -> dict[str, Any]:
    """Right responses of a million tokens, and of those kept, with intervals."""
    columns = [[float(row.right), float(row.kept), float(row.tokens)] for row in results]
    values = torch.tensor(columns).T
    drawn = resampled_means(values)
    means = values.double().mean(1)
    rate, share = drawn[:, 0] / drawn[:, 2] * 1e6, drawn[:, 0] / drawn[:, 1]
    return {
        "right_per_million_tokens": round(float(means[0] / means[2] * 1e6), 1),
        "interval_yield": [round(end, 1) for end in interval(rate)],
        "precision": round(float(means[0] / means[1]), 4),
        "interval_precision": [round(end, 4) for end in interval(share)],
        "kept": round(float(means[1]), 4),
        "tokens": round(float(means[2])),
    }
