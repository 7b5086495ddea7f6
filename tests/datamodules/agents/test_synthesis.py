"""The loop of the agents, with scripted ones and no engine."""

import asyncio
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules.agents.roles import Part, Role, Team
from katlit.datamodules.agents.synthesis import NoReplyError, Outcome, Said, synthesize
from katlit.datamodules.labelling.chat_model import Reply
from katlit.rewards import Verdict
from katlit.text.protocol import Mode, ParsedResponse, Violation

PROMPT = Prompt(
    id="a", messages=[{"role": "user", "content": "What is 2+2?"}], reference="4", verifier="match",
    domain="", difficulty=0, metadata={},
)  # fmt: skip
GOOD, BAD, UNREADABLE = '{"score": 5, "reasons": "x"}', '{"score": 2, "reasons": "Show it."}', "fine"
Script = dict[str, list[Any]]


def reply(text: str | tuple[str, str] | None) -> Reply:
    """A direct reply, or a thought and an answer; None is one that was cut."""
    think, answer = text if isinstance(text, tuple) else ("", text or "4")
    mode = Mode.THINK_ON if think else Mode.THINK_OFF
    violation = Violation.TRUNCATED if text is None else None
    return Reply(ParsedResponse("", mode, think, answer, violation), None, 5, text is None)


def play(
    script: Script,
    mode: Mode = Mode.THINK_ON,
    reference: str = "4",
    templates: dict[Part, str] | None = None,
    **rules: Any,
) -> tuple[Outcome, list[Any]]:
    """What comes of a script: the replies of each agent in their order."""
    left = {part: list(replies) for part, replies in script.items()}
    said: list[Any] = []

    async def ask(part: Part, messages: list[dict[str, Any]], seed: int) -> Said:
        said.append((part.value, messages[-1]["content"], seed))
        text = left[part.value].pop(0)
        if isinstance(text, NoReplyError):
            raise text
        return Said(reply(text), 10)

    async def verify(answer: Reply) -> Verdict:
        return Verdict(
            None if answer.parsed.answer == "?" else float(answer.parsed.answer == "4"), "by match"
        )

    roles = {Part(part): Role("m", (templates or {}).get(Part(part))) for part in script}
    outcome = asyncio.run(
        synthesize(PROMPT | {"reference": reference}, mode, Team(roles, **rules), ask, verify)
    )
    assert not any(left.values()), left
    return outcome, said


def faults(outcome: Outcome) -> list[tuple[str, str | None]]:
    return [(step.part.value, step.fault and step.fault.value) for step in outcome.steps]


def test_the_thinker_gets_the_reasons_and_its_own_last_chain() -> None:
    thoughts = [("2 and 2", "5"), ("two", "4"), ("two and two", "4")]
    outcome, said = play(
        {"solver": ["maybe 5"], "thinker": thoughts, "critic": [BAD, GOOD], "writer": ["Yes, it is a sum."]}
    )
    assert outcome.reply is not None
    assert (outcome.reply.parsed.think, outcome.score, outcome.verified) == ("two and two", 5, True)
    assert outcome.judge == "It is a sum."
    assert faults(outcome) == [
        ("solver", None), ("thinker", "wrong"), ("thinker", "score"), ("critic", None), ("thinker", None),
        ("critic", None), ("writer", None),
    ]  # fmt: skip
    first, second, third = [text for part, text, _ in said if part == "thinker"]
    assert "<draft>\nmaybe 5\n</draft>\nObjections to it: none yet\n" in first
    assert "<draft>\n2 and 2\n\n5\n</draft>\nObjections to it: A check of the final answer says" in second
    assert "<draft>\ntwo\n\n4\n</draft>\nObjections to it: Show it.\n" in third
    assert len({seed for _, _, seed in said}) == len(said)
    judged = [text for part, text, _ in said if part == "critic"]
    assert (
        "<reasoning>\ntwo and two\n</reasoning>\n<answer>\n4\n</answer>\n\n5: the answer is correct"
        in judged[1]
    )


def test_without_a_solver_the_thinker_reads_the_conversation_as_it_is() -> None:
    thoughts = [("2 and 2", "5"), ("two and two", "4")]
    outcome, said = play({"thinker": thoughts})
    assert outcome.reply is not None
    assert outcome.reply.parsed.think == "two and two"
    assert faults(outcome) == [("thinker", "wrong"), ("thinker", None)]
    assert [text for _, text, _ in said] == ["What is 2+2?"] * 2
    assert len({seed for _, _, seed in said}) == 2


def test_a_thinker_with_a_template_and_no_solver_reads_its_own_last_chain() -> None:
    words = "{question} Before: {draft}. Objections: {objections}"
    _, said = play({"thinker": [("2 and 2", "5"), ("two", "4")]}, templates={Part.THINKER: words})
    assert said[0][1] == "What is 2+2? Before: none yet. Objections: none yet"
    assert said[1][1].startswith("What is 2+2? Before: 2 and 2\n\n5. Objections: A check")


@pytest.mark.parametrize(
    ("thought", "fault", "told"),
    [
        (None, "truncated", "It was cut off before its end. Be shorter."),
        ("4", "mode", "It held no reasoning, only an answer."),
        (("2 and 2", " "), "malformed", "It held no answer."),
        (("2 and 2", "?"), "unjudged", "The form of the final answer could not be read."),
        (("да это сумма", "4"), "language", "It is not in the language of the question."),
        (("the draft is right", "4"), "context", "It speaks of the draft or of objections"),
    ],
)
def test_each_fault_is_sent_back_in_words_and_costs_no_critic(thought: Any, fault: str, told: str) -> None:
    outcome, said = play({"solver": ["4"], "thinker": [thought, ("2 and 2", "4")], "critic": [GOOD]})
    assert faults(outcome)[1:] == [("thinker", fault), ("thinker", None), ("critic", None)]
    assert told in said[2][1]
    assert outcome.judge == "This needs several steps of reasoning."


def test_no_more_rounds_than_allowed_and_no_writer_for_what_is_dropped() -> None:
    outcome, _ = play({"solver": ["4"], "thinker": [("so", "5")] * 2, "critic": [], "writer": []}, rounds=2)
    assert (outcome.reply, outcome.judge, outcome.lost) == (None, "", None)


def test_a_critic_that_cannot_be_read_is_asked_once_more_and_approves_nothing() -> None:
    script = {"solver": ["4"], "thinker": [("so", "4")] * 2, "critic": [UNREADABLE, GOOD]}
    outcome, _ = play(script | {"thinker": [("so", "4")]})
    assert faults(outcome)[2:] == [("critic", "unread"), ("critic", None)]
    outcome, said = play(script | {"critic": [UNREADABLE, None, UNREADABLE, UNREADABLE]}, rounds=2)
    assert outcome.reply is None
    assert len({seed for _, _, seed in said}) == len(said)
    notes = [step.note for step in outcome.steps if step.part is Part.THINKER]
    assert notes == ["its score could not be read"] * 2
    assert "Objections to it: none yet\n" in [text for part, text, _ in said if part == "thinker"][1]
    assert [step.round for step in outcome.steps if step.part is Part.CRITIC] == [0, 0, 1, 1]
    assert [fault for part, fault in faults(outcome) if part == "thinker"] == ["unread"] * 2


@pytest.mark.parametrize(
    ("reference", "answers", "critic", "kept", "verified"),
    [
        ("4", ["5", "4"], [], "4", True),  # where there is a reference it decides alone
        ("", ["5", "4"], [BAD, GOOD], "4", False),
        ("", ["5", "6"], [BAD, BAD], None, False),
    ],
)
def test_direct_answers_are_verified_or_approved(
    reference: str, answers: list[str], critic: list[str], kept: str | None, *, verified: bool
) -> None:
    script = {"answerer": answers, "critic": critic}
    outcome, said = play(script, Mode.THINK_OFF, reference, rounds=2)
    assert (outcome.reply and outcome.reply.parsed.answer, outcome.verified) == (kept, verified)
    assert said[0][1] == "What is 2+2?"  # the conversation as it is


def test_without_a_critic_what_cannot_be_verified_is_kept() -> None:
    outcome, _ = play({"solver": ["5"], "thinker": [("so", "5")]}, reference="")
    assert (outcome.reply is not None, outcome.verified, outcome.score) == (True, False, None)


@pytest.mark.parametrize("refused", [True, False])
@pytest.mark.parametrize("part", ["solver", "thinker", "critic"])
def test_an_agent_without_a_reply_ends_the_query(part: str, *, refused: bool) -> None:
    script: Script = {"solver": ["4"], "thinker": [("so", "4")], "critic": [GOOD]}
    later = [name for name in list(script)[list(script).index(part) :] if name != part]
    lost = NoReplyError("status 400", "status 400: request 7", refused=refused)
    outcome, _ = play(script | {name: [] for name in later} | {part: [lost]})
    assert (outcome.reply, outcome.lost) == (None, (Part(part), "status 400"))
    assert outcome.failed == ("" if refused else "status 400: request 7")


def test_a_writer_that_is_refused_or_tells_the_answer_is_replaced_by_the_default_text() -> None:
    script: Script = {"answerer": ["4"]}
    for writer in ([NoReplyError("x", "x", refused=True)], ["No, it is 4.", "Yes, so it is."], [None, None]):
        outcome, _ = play(script | {"writer": writer}, Mode.THINK_OFF)
        assert outcome.judge == "This can be answered directly."
        assert outcome.lost == ((Part.WRITER, "x") if len(writer) == 1 else None)
    outcome, _ = play(script | {"writer": [NoReplyError("x", "x", refused=False)]}, Mode.THINK_OFF)
    assert (outcome.reply, outcome.failed) == (None, "x")
