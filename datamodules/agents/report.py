"""What became of the queries: traces to read, counts by source and by agent, lines in the log."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any, TypeAlias

from katlit.datamodules.agents.queries import Query
from katlit.datamodules.agents.roles import Part
from katlit.datamodules.agents.synthesis import Outcome, Step
from katlit.datamodules.labelling.chat_model import ChatModel
from katlit.text.protocol import Mode

logger = logging.getLogger(__name__)

Made: TypeAlias = Sequence[tuple[Query, Outcome]]
"""The queries, and what became of them."""


def reject_all(made: Made, teams: Sequence[Mapping[Part, ChatModel]]) -> None:
    """Count at each model what was not kept of its replies; the teams are those that queries name."""
    for query, outcome in made:
        for step in steps_of(query, outcome):
            if step.fault is not None:
                text = "\n".join(filter(None, [step.think, step.text]))
                model = teams[query.team][step.part]
                model.rejections.add(step.fault, query.mode, query.prompt["id"], step.note, text)


def steps_of(query: Query, outcome: Outcome) -> list[Step]:
    """Return all that was said about a query, in its order."""
    return query.tagged.steps + outcome.steps


def losses_of(query: Query, outcome: Outcome) -> list[tuple[Part, str]]:
    """Return who did not reply about a query, each with the kind of the error."""
    votes = [(Part.TAGGER, kind) for kind in query.tagged.lost]
    return votes if outcome.lost is None else [*votes, outcome.lost]


def dropped(outcome: Outcome) -> str | None:
    """Why a query has no response: the agent and the reason; None where it has one."""
    if outcome.reply is not None:
        return None
    if outcome.lost is not None:
        part, _ = outcome.lost
        return f"{part} no reply"
    answers = [step for step in outcome.steps if step.part in (Part.THINKER, Part.ANSWERER)]
    return f"{answers[-1].part} {answers[-1].fault}"


def trace_rows(made: Made, teams: Sequence[Mapping[Part, str]]) -> Iterator[dict[str, Any]]:
    """Return a row for each query: its tags, its mode, who said what, and what came of it.

    Args:
        made: The queries, and what became of them.
        teams: Which models play the parts, in each team.
    """
    for query, outcome in made:
        merged = query.tagged.merged
        yield {
            "id": query.prompt["id"],
            "source": query.prompt["domain"],
            "mode": query.mode.value,
            "kept": outcome.reply is not None,
            "dropped": dropped(outcome) or "",
            "lost": "" if outcome.lost is None else outcome.lost[1],
            "score": outcome.score,
            "verified": outcome.verified,
            "judge": outcome.judge,
            "tags": asdict(merged.tags)
            | {"spread": merged.spread, "ties": list(merged.ties), "lost": query.tagged.lost},
            "steps": [
                {"role": step.part.value, "model": teams[query.team][step.part]}
                | {name: value for name, value in asdict(step).items() if name != "part"}
                for step in steps_of(query, outcome)
            ],
        }


def report_rows(made: Made, teams: Sequence[Mapping[Part, str]]) -> Iterator[dict[str, Any]]:
    """Return the counts: a row for each source and mode, then a row for each agent."""
    groups: dict[tuple[str, Mode], list[Outcome]] = {}
    for query, outcome in made:
        groups.setdefault((query.prompt["domain"], query.mode), []).append(outcome)
    for (source, mode), outcomes in sorted(groups.items()):
        kept = [outcome for outcome in outcomes if outcome.reply is not None]
        yield {
            "source": source, "mode": mode.value, "queries": len(outcomes), "kept": len(kept),
            "verified": sum(outcome.verified for outcome in kept),
            "scores": _counts(outcome.score for outcome in kept if outcome.score is not None),
            "dropped": _counts(why for outcome in outcomes if (why := dropped(outcome)) is not None),
        }  # fmt: skip
    yield from _agent_rows(made, teams)


def _agent_rows(made: Made, teams: Sequence[Mapping[Part, str]]) -> Iterator[dict[str, Any]]:
    agents = dict.fromkeys((part, team[part]) for part in teams[0] for team in teams)
    lost: dict[tuple[Part, str], list[str]] = {agent: [] for agent in agents}
    steps: dict[tuple[Part, str], list[Step]] = {agent: [] for agent in agents}
    for query, outcome in made:
        models = teams[query.team]
        for step in steps_of(query, outcome):
            steps[step.part, models[step.part]].append(step)
        for part, kind in losses_of(query, outcome):
            lost[part, models[part]].append(kind)
    for (part, model), said in steps.items():
        yield {
            "role": part.value, "model": model, "replies": len(said),
            "prompt_tokens": sum(step.prompt_tokens for step in said),
            "reply_tokens": sum(step.tokens for step in said),
            "faults": _counts(step.fault.value for step in said if step.fault is not None),
            "lost": _counts(lost[part, model]),
        }  # fmt: skip


def _counts(values: Iterable[Any]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def log_outcomes(made: Made, seconds: float) -> None:
    """Say what was kept, why the rest was not, and what it took."""
    kept = [query for query, outcome in made if outcome.reply is not None]
    share = sum(query.mode is Mode.THINK_ON for query in kept) / max(len(kept), 1)
    why = Counter(reason for _, outcome in made if (reason := dropped(outcome)) is not None)
    told = ", ".join(f"{count} {reason}" for reason, count in why.most_common()) or "none"
    steps = [step for query, outcome in made for step in steps_of(query, outcome)]
    logger.info(
        "agents: %d of %d queries kept, think share %.3f; dropped: %s; %d replies of %d tokens, %.1f s",
        len(kept), len(made), share, told, len(steps), sum(step.tokens for step in steps), seconds,
    )  # fmt: skip


def tell_unused(key: str, names: Iterable[str], domains: Set[str]) -> None:
    """Say which domains that a setting names no query has."""
    unused = [name for name in names if name.strip().casefold() not in domains]
    if unused:
        told = "%s: no query is of domain %s; the tags know %s"
        logger.warning(told, key, ", ".join(map(repr, unused)), ", ".join(map(repr, sorted(domains))))
