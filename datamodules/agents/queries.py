"""What is known of a query before it is answered: its tags, its mode, and who checks its answers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from katlit.batch import Prompt
from katlit.datamodules.agents.roles import Part, Team
from katlit.datamodules.agents.synthesis import Ask, NoReplyError, Step, step_of
from katlit.datamodules.labelling.rejections import Reason
from katlit.datamodules.tagging import (
    MergedTags,
    RuleTagger,
    Tags,
    merge_tags,
    read_tags,
    tag_question,
    verifier_of,
)
from katlit.engines.base import request_seed
from katlit.text.protocol import Mode


@dataclass(slots=True)
class Tagged:
    """The votes on a query.

    Attributes:
        merged: What they say together; what the rules say, where there is no vote.
        ballots: Votes for each mode.
        steps: Who said what.
        lost: The kind of the error for each vote that did not come.
        failed: Why a vote is missing that may come another time; empty where none is.
    """

    merged: MergedTags
    ballots: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """A query, the mode of its response, and the prompt by which answers are judged.

    Attributes:
        prompt: The query as it was read.
        judged: The same with the verifier that was chosen; without a reference where none can check it.
        mode: Whether the response thinks.
        tagged: The votes.
        team: Who works on it, as a place in the list of teams.
    """

    prompt: Prompt
    judged: Prompt
    mode: Mode
    tagged: Tagged
    team: int = 0


async def tag(prompt: Prompt, team: Team, votes: int, rules: RuleTagger, ask: Ask) -> Tagged:
    """Let the tagger vote on a query, or the rules where there is none, or no vote that can be read.

    Raises:
        UserError: as `ask` does.
    """
    steps: list[Step] = []
    cast: list[Tags] = []
    lost: list[str] = []
    failed = ""
    for number in range(votes if Part.TAGGER in team.roles else 0):
        content = tag_question(str(team.texts[Part.TAGGER]), prompt["messages"])
        seed = request_seed(team.seed, Part.TAGGER.value, prompt["id"], number)
        try:
            said = await ask(Part.TAGGER, [{"role": "user", "content": content}], seed)
        except NoReplyError as error:
            lost.append(error.kind)
            failed = failed or ("" if error.refused else str(error))
            continue
        found = None if said.reply.truncated else read_tags(said.reply.parsed.answer or "")
        step = step_of(Part.TAGGER, number, seed, said)
        if found is None:
            step.fault, step.note = Reason.UNTAGGED, "no tags"
        else:
            cast.append(found)
        steps.append(step)
    thinking = sum(vote.needs_reasoning for vote in cast)
    ballots = {Mode.THINK_ON.value: thinking, Mode.THINK_OFF.value: len(cast) - thinking}
    return Tagged(merge_tags(cast or [rules.tag(prompt)]), ballots, steps, lost, failed)


def query_of(
    prompt: Prompt,
    tagged: Tagged,
    mode: Mode,
    rules: RuleTagger,
    problem: Callable[[Prompt], str | None],
    team: int = 0,
) -> Query:
    """Choose by the tags who checks the answers to a query.

    The tagger has not seen the reference, so what it calls unchecked is checked where the rules, which see
    it, name a verifier.

    Args:
        prompt: The query.
        tagged: The votes.
        mode: Its mode.
        rules: The rules.
        problem: `reference_problem` of the reward that checks answers.
        team: Who works on it.
    """
    if not prompt["reference"].strip():
        return Query(prompt, prompt, mode, tagged, team)
    opinions = tagged.merged.tags, rules.tag(prompt)
    verifier = next(filter(None, (verifier_of(prompt, tags, problem) for tags in opinions)), None)
    judged: Prompt = {**prompt, "reference": ""} if verifier is None else {**prompt, "verifier": verifier}
    return Query(prompt, judged, mode, tagged, team)
