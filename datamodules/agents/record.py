"""The record that becomes of a query whose response is kept."""

from dataclasses import replace

from katlit.datamodules.agents.queries import Query
from katlit.datamodules.agents.roles import Part, Team
from katlit.datamodules.agents.synthesis import Outcome
from katlit.datamodules.labelling.replies import record_of
from katlit.datamodules.labelling.seeds import draws
from katlit.datamodules.records import Record
from katlit.text.protocol import Mode


def record_of_outcome(query: Query, outcome: Outcome, team: Team, forced: float) -> Record:
    """Write down the response of a query, with what the tags say of it where the query does not.

    Args:
        query: The query.
        outcome: What became of it.
        team: The agents that worked on it.
        forced: Share of the records whose mode is forced by prefill.

    Raises:
        ValueError: where no response was kept.
    """
    if outcome.reply is None:
        raise ValueError(query.prompt["id"])
    part = Part.THINKER if query.mode is Mode.THINK_ON else Part.ANSWERER
    record = record_of(
        query.prompt, query.mode, outcome.reply, outcome.judge, query.tagged.ballots,
        team.roles[part].model, team.seed,
    )  # fmt: skip
    tags = query.tagged.merged.tags
    return replace(
        record,
        domain=query.prompt["domain"] or tags.domain,
        difficulty=query.prompt["difficulty"] or tags.difficulty,
        verified=outcome.verified,
        verifier=query.judged["verifier"],
        critic_score=outcome.score,
        forced=draws(team.seed, "forced", query.prompt, forced),
    )
