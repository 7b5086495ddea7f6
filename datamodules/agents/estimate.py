"""What the work will cost, by what the first queries took."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from katlit.datamodules.agents.queries import Query
from katlit.datamodules.agents.report import steps_of
from katlit.datamodules.agents.roles import Part
from katlit.datamodules.agents.synthesis import Outcome
from katlit.engines.base import RolloutEngine
from katlit.engines.chat_endpoint import ChatEndpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cost:
    """What replies take, whether they were known or not.

    Attributes:
        requests: Replies.
        prompt_tokens: Tokens of their prompts.
        reply_tokens: Tokens of the replies.
        price: By the prices of the endpoints that have some; None where none has.
    """

    requests: int
    prompt_tokens: int
    reply_tokens: int
    price: float | None


def cost_of(made: Sequence[tuple[Query, Outcome]], teams: Sequence[Mapping[Part, RolloutEngine]]) -> Cost:
    """Add up what was said about queries.

    Args:
        made: The queries, and what became of them.
        teams: What the agents are reached by, in each team.
    """
    said = [(query.team, step) for query, outcome in made for step in steps_of(query, outcome)]
    steps = [step for _, step in said]
    prices: list[float] = []
    for team, step in said:
        engine = teams[team][step.part]
        price = engine.cost(step.prompt_tokens, step.tokens) if isinstance(engine, ChatEndpoint) else None
        if price is not None:
            prices.append(price)
    return Cost(
        len(steps), sum(step.prompt_tokens for step in steps), sum(step.tokens for step in steps),
        sum(prices) if prices else None,
    )  # fmt: skip


def log_estimate(cost: Cost, asked: int, seconds: float | None, queries: int, left: int) -> None:
    """Say what the first queries took, and about how much the others will.

    The pace is that of the first queries alone, which do not fill a server that takes more at a time.

    Args:
        cost: What the first queries took.
        asked: Those of their requests that were not known.
        seconds: How long they took; None where all were known.
        queries: How many they were.
        left: How many others there are.
    """
    factor = left / queries
    price = "" if cost.price is None else f", {cost.price * factor:.2f} by engine.prices"
    hours = (
        "" if seconds is None else f", at most {seconds * factor * cost.requests / asked / 3600:.2f} hours"
    )
    logger.info(
        "agents: the first %d queries took %d requests (%d of them known before), %d prompt and %d reply "
        "tokens; the other %d will take about %d requests, %d prompt and %d reply tokens%s%s",
        queries, cost.requests, cost.requests - asked, cost.prompt_tokens, cost.reply_tokens, left,
        round(cost.requests * factor), round(cost.prompt_tokens * factor), round(cost.reply_tokens * factor),
        hours, price,
    )  # fmt: skip
