"""How a query gets its response: the loop of solver, thinker and critic, apart from any engine (recipe §2).

The paper names the three roles. The order of their turns, what each of them reads, the verifier before the
critic, the limits and the judge writer are our choice.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from katlit.batch import Prompt
from katlit.datamodules.agents.checks import is_foreign, read_judge, read_score, scripts_of, slip
from katlit.datamodules.agents.roles import Part, Team
from katlit.datamodules.agents.templates import conversation_text, fill
from katlit.datamodules.labelling.chat_model import Reply
from katlit.datamodules.labelling.rejections import Reason
from katlit.datamodules.labelling.replies import fault_of
from katlit.datamodules.labelling.votes import DEFAULT_JUDGES
from katlit.engines.base import request_seed
from katlit.rewards import Verdict
from katlit.text.protocol import Mode

_NO_DRAFT = _NO_OBJECTIONS = "none yet"
_AGAIN = 2  # requests for a score, or a judge text, that can be read
_MENDED = {
    Reason.TRUNCATED: "It was cut off before its end. Be shorter.",
    Reason.MODE: "It held no reasoning, only an answer.",
    Reason.MALFORMED: "It held no answer.",
    Reason.WRONG: "A check of the final answer says that it is wrong.",
    Reason.UNJUDGED: "The form of the final answer could not be read.",
    Reason.LANGUAGE: "It is not in the language of the question.",
    Reason.CONTEXT: "It speaks of the draft or of objections, which its reader does not know.",
}


class Said(NamedTuple):
    """A reply, and what it took."""

    reply: Reply
    prompt_tokens: int


class Ask(Protocol):
    """Has an agent reply to messages; raises NoReplyError where it does not."""

    def __call__(self, part: Part, messages: list[dict[str, Any]], seed: int) -> Awaitable[Said]:
        """Ask."""


Verify = Callable[[Reply], Awaitable[Verdict]]
"""Judges the answer of a reply by the reference."""


class NoReplyError(Exception):
    """An agent does not reply: its server refuses the request, or may reply another time.

    Attributes:
        kind: The status, or what came in its place; the message has what else the server says, which may
            differ each time it is asked.
        refused: Whether another time will not do.
    """

    def __init__(self, kind: str, reason: str, *, refused: bool) -> None:
        super().__init__(reason)
        self.kind = kind
        self.refused = refused


@dataclass(slots=True)
class Step:
    """One reply of a trace, and what became of it."""

    part: Part
    round: int  # of a critic, that of the response which it scores
    seed: int
    think: str
    text: str
    prompt_tokens: int
    tokens: int
    fault: Reason | None = None  # why it was not kept
    note: str = ""  # a score with its reasons, or the fault in more words


def step_of(part: Part, number: int, seed: int, said: Said) -> Step:
    """Return a reply as a step that nothing has become of."""
    parsed, tokens = said.reply.parsed, said.reply.tokens
    return Step(part, number, seed, parsed.think, parsed.answer or "", said.prompt_tokens, tokens)


@dataclass(slots=True)
class Outcome:
    """What became of a query.

    Attributes:
        mode: The mode that was asked for.
        reply: The response that is kept; None where there is none.
        judge: Why the query has that mode.
        score: The critic's score of the response, if it gave one.
        verified: Whether the verifier has found the answer right.
        lost: The agent and the kind of the error, where an agent did not reply.
        failed: The reason, where the agent may reply another time.
        steps: Who said what.
    """

    mode: Mode
    reply: Reply | None = None
    judge: str = ""
    score: int | None = None
    verified: bool = False
    lost: tuple[Part, str] | None = None
    failed: str = ""
    steps: list[Step] = field(default_factory=list)


async def synthesize(prompt: Prompt, mode: Mode, team: Team, ask: Ask, verify: Verify) -> Outcome:
    """Let the agents find a response in a mode, and the text that explains the mode.

    Args:
        prompt: The query.
        mode: Whether the response is to think.
        team: The agents and their rules.
        ask: Has an agent reply.
        verify: Judges an answer; only asked where there is a reference.

    Returns:
        The response, or why there is none, and all that was said.

    Raises:
        UserError: as `ask` and `verify` do.
    """
    case = _Case(prompt, team, ask, verify, Outcome(mode), scripts_of(prompt))
    try:
        await (_think(case) if mode is Mode.THINK_ON else _answer(case))
        if case.outcome.reply is not None:
            case.outcome.judge = await _explain(case)
    except NoReplyError as error:
        case.outcome.failed = "" if error.refused else str(error)
        case.outcome.reply = None
    return case.outcome


@dataclass(slots=True)
class _Case:
    """A query that is being worked on."""

    prompt: Prompt
    team: Team
    ask: Ask
    verify: Verify
    outcome: Outcome
    scripts: frozenset[str]

    async def say(self, part: Part, attempt: int, **values: str) -> Reply:
        """Have an agent reply to its template."""
        text = self.team.texts[part]
        if text is None:
            messages = self.prompt["messages"]
        else:
            question = {"question": conversation_text(self.prompt), "rubric": self.team.rubric}
            messages = [{"role": "user", "content": fill(text, question | values)}]
        seed = request_seed(self.team.seed, part.value, self.prompt["id"], attempt)
        try:
            said = await self.ask(part, messages, seed)
        except NoReplyError as error:
            self.outcome.lost = part, error.kind
            raise
        self.outcome.steps.append(step_of(part, attempt, seed, said))
        return said.reply

    def note(self, fault: Reason | None, words: str) -> None:
        """Write down what became of the last reply."""
        step = self.outcome.steps[-1]
        step.fault, step.note = fault, words


async def _think(case: _Case) -> None:
    """The solver, if any, drafts once; the thinker expands and corrects, until it is not sent back."""
    draft, objections = _NO_DRAFT, _NO_OBJECTIONS
    if Part.SOLVER in case.team.roles:
        draft = _told(await case.say(Part.SOLVER, 0))
    for attempt in range(case.team.rounds):
        reply = await case.say(Part.THINKER, attempt, draft=draft, objections=objections)
        sent_back = await _examine(case, reply, attempt)
        if sent_back is None:
            return
        objections = sent_back
        if fault_of(reply, Mode.THINK_ON) is None:
            draft = _told(reply)


async def _answer(case: _Case) -> None:
    """Direct answers, until one is not sent back."""
    for attempt in range(case.team.rounds):
        reply = await case.say(Part.ANSWERER, attempt)
        if await _examine(case, reply, attempt) is None:
            return


def _told(reply: Reply) -> str:
    """What another agent reads of a reply."""
    parts = reply.parsed.think.strip(), (reply.parsed.answer or "").strip()
    return "\n\n".join(filter(None, parts)) or "(empty)"


async def _examine(case: _Case, reply: Reply, attempt: int) -> str | None:
    """Keep a response, or say what is to be mended."""
    outcome, place = case.outcome, len(case.outcome.steps) - 1
    fault, note = _form_fault(case, reply)
    verified = False
    if fault is None and case.prompt["reference"].strip():
        verdict = await case.verify(reply)
        verified = verdict.value is not None and verdict.value >= 1
        if not verified:
            fault, note = (Reason.UNJUDGED if verdict.value is None else Reason.WRONG), verdict.reason
    if fault is not None:
        case.note(fault, note)
        return _MENDED[fault]
    score, objections = None, None
    needs_critic = outcome.mode is Mode.THINK_ON or not verified
    if Part.CRITIC in case.team.roles and needs_critic:
        score, fault, objections = await _criticize(case, reply, attempt)
    step = outcome.steps[place]
    step.fault, step.note = fault, objections or ("" if fault is None else "its score could not be read")
    if fault is not None:
        return objections or _NO_OBJECTIONS
    outcome.reply, outcome.score, outcome.verified = reply, score, verified
    return None


def _form_fault(case: _Case, reply: Reply) -> tuple[Reason | None, str]:
    """What can be told of a reply without knowing the answer."""
    prompt, team, parsed = case.prompt, case.team, reply.parsed
    if (fault := fault_of(reply, case.outcome.mode)) is not None:
        return fault, str(parsed.violation or "")
    written = parsed.think, parsed.answer or ""
    if team.same_script and any(is_foreign(case.scripts, text) for text in written):
        return Reason.LANGUAGE, "most letters are of another script"
    if (word := slip(prompt, parsed.think, team.unsaid)) is not None:
        return Reason.CONTEXT, f"the thought says {word!r}"
    return None, ""


async def _criticize(case: _Case, reply: Reply, attempt: int) -> tuple[int | None, Reason | None, str]:
    """The critic's score, why the response is sent back, and what to tell its writer."""
    think, answer = reply.parsed.think or "(none)", reply.parsed.answer or ""
    for again in range(_AGAIN):
        said = await case.say(Part.CRITIC, attempt * _AGAIN + again, think=think, answer=answer)
        case.outcome.steps[-1].round = attempt
        score = None if said.truncated else read_score(said.parsed.answer or "")
        if score is None:
            case.note(Reason.UNREAD, "truncated" if said.truncated else "no score from 1 to 5 in JSON")
            continue
        case.note(None, f"{score.value}: {score.reasons}")
        low = score.value < case.team.approve
        objections = score.reasons or f"It got {score.value} of 5 points."
        return score.value, Reason.SCORE if low else None, objections if low else ""
    return None, Reason.UNREAD, ""


async def _explain(case: _Case) -> str:
    """The judge text: the writer's, if it passes, else the default."""
    outcome, reply = case.outcome, case.outcome.reply
    default = DEFAULT_JUDGES[outcome.mode]
    if Part.WRITER not in case.team.roles or reply is None:
        return default
    decision = "Yes" if outcome.mode is Mode.THINK_ON else "No"
    for again in range(_AGAIN):
        try:
            said = await case.say(Part.WRITER, again, decision=decision)
        except NoReplyError as error:
            if not error.refused:
                raise
            return default
        judge, fault = read_judge(
            said.parsed.answer or "", outcome.mode, case.prompt, reply.parsed.answer or ""
        )
        if fault is None and not said.truncated:
            return judge
        case.note(Reason.MALFORMED, fault or "truncated")
    return default
