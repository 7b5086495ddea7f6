"""What is read of an agent's reply, and what is refused, whatever it holds."""

import json
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules import ThreeAgents
from katlit.datamodules.agents.checks import Score, is_foreign, read_judge, read_score, scripts_of, slip
from katlit.datamodules.agents.roles import Part, Role, Team
from katlit.datamodules.agents.templates import conversation_text, fill
from katlit.errors import UserError
from katlit.text.protocol import Mode


def asked(question: str, reference: str = "") -> Prompt:
    return Prompt(
        id="a", messages=[{"role": "user", "content": question}], reference=reference, verifier="match",
        domain="", difficulty=0, metadata={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"score": 4, "reasons": "a  step\\nis missing"}', Score(4, "a step is missing")),
        ('```json\n{"score": 1, "reasons": ""}\n```', Score(1, "")),
        (' {"reasons": "x", "score": 5, "more": [1]} ', Score(5, "x")),
        (json.dumps({"score": 3, "reasons": "y" * 2000}), Score(3, "y" * 600)),
        ('The solution is right. {"score": 5, "reasons": "x"}', None),
        ('{"score": 5, "reasons": "x"} {"score": 1, "reasons": "x"}', None),
        ('{"score": "5", "reasons": "x"}', None),
        ('{"score": 4.0, "reasons": "x"}', None),
        ('{"score": true, "reasons": "x"}', None),
        ('{"score": 6, "reasons": "x"}', None),
        ('{"score": 0, "reasons": "x"}', None),
        ('{"score": 5}', None),
        ('{"score": 5, "reasons": ["x"]}', None),
        ('{"score": NaN, "reasons": "x"}', None),
        ('{"score": ' + "9" * 5000 + ', "reasons": "x"}', None),
        ("[" * 100_000, None),
        ("[5]", None),
        ("5", None),
        ("", None),
    ],
)
def test_only_one_object_with_a_score_is_a_score(text: str, score: Score | None) -> None:
    assert read_score(text) == score


SUM = asked("Anna has 3 boxes of 12 eggs. How many eggs are there?", "36")


@pytest.mark.parametrize(
    ("text", "mode", "judge", "fault"),
    [
        ("Yes, it takes two products and a sum.", "on", "It takes two products and a sum.", None),
        ("No, one product of two numbers is enough.", "off", "One product of two numbers is enough.", None),
        ("Yes, there are 3 boxes of eggs to count.", "on", "There are 3 boxes of eggs to count.", None),
        ("No, it is not a question of many steps.", "off", "It is not a question of many steps.", None),
        ("No, it takes two products and a sum.", "on", "", "decision"),
        ("It takes two products and a sum.", "on", "", "decision"),
        ("", "on", "", "decision"),
        ("Yes, so.", "on", "So.", "no line"),
        ("Yes, " + "it takes steps and " * 20, "on", None, "no line"),
        ("Yes, one product.\nThen a sum of these.", "on", None, "no line"),
        ("Yes, there are 36 eggs to count.", "on", None, "number"),
        ("Yes, it asks for 3 * 12 eggs.", "on", None, "calculates"),
        ("Yes, eggs = boxes times twelve here.", "on", None, "calculates"),
        ("Yes, it needs <think> and more of that.", "on", None, "mark"),
        ("Yes, this can be answered directly by anyone.", "on", None, "other mode"),
        ("No, this takes several steps of work.", "off", None, "other mode"),
        ("No, this takes many small steps of work.", "off", None, "other mode"),
        ("No, careful reasoning is what it takes.", "off", None, "other mode"),
        ("No, it is a multi-step problem of products.", "off", None, "other mode"),
        ("No, it asks how many eggs there are.", "off", "It asks how many eggs there are.", None),
        ("No, several facts are just named.", "off", "Several facts are just named.", None),
    ],
)
def test_a_judge_text_agrees_and_tells_no_answer(
    text: str, mode: str, judge: str | None, fault: str | None
) -> None:
    read, found = read_judge(text, Mode(mode), SUM, "36")
    assert judge is None or read == judge
    assert (found is None) if fault is None else (fault in str(found))


def test_an_answer_in_words_is_found_in_a_judge_text_unless_the_question_has_it() -> None:
    capital = asked("What is the capital of France?", "Paris")
    _, fault = read_judge("No, everybody knows that Paris is it.", Mode.THINK_OFF, capital, "It is Paris.")
    assert fault == "it holds the answer"
    choice = asked("Is Paris or Rome the capital of France?", "Paris")
    read = read_judge("No, everybody knows Paris and Rome.", Mode.THINK_OFF, choice, "Paris")
    assert read == ("Everybody knows Paris and Rome.", None)


@pytest.mark.parametrize(
    ("question", "reference", "text", "foreign"),
    [
        ("What is two and two?", "", "Это четыре.", True),
        ("What is two and two?", "", "It is four, четыре.", False),
        ("Say hello in Russian.", "привет", "привет", False),
        ("Сколько будет два и два?", "", "It is four.", True),
        ("2 + 2 = ?", "", "Это четыре.", False),
        ("Напиши функцию.", "", "Вот:\n```python\ndef function(): return None\n```", False),
        ("Напиши функцию.", "", "Вот `function`:\n```python\ndef function(): return None", False),
        ("Напиши функцию.", "", "Here it is: `f`.", True),
        ("What is two and two?", "", "4", False),
        ("What is two and two?", "", "", False),
    ],
)
def test_a_reply_in_another_script_is_foreign(
    question: str, reference: str, text: str, *, foreign: bool
) -> None:
    assert is_foreign(scripts_of(asked(question, reference)), text) is foreign


def test_a_chain_that_speaks_of_the_draft_is_found_unless_the_question_does() -> None:
    assert slip(asked("What is 2+2?"), "The Draft is right: 4.", ("draft",)) == "draft"
    assert slip(asked("What is 2+2?"), "Redrafting is right: 4.", ("draft",)) is None
    assert slip(asked("Draft a letter."), "The draft is short.", ("draft",)) is None


def test_what_looks_like_a_placeholder_in_a_reply_stays() -> None:
    values = {"question": "{draft} {0} {", "draft": "{question} }"}
    assert fill('{question}|{draft}|{"score": 1}', values) == '{draft} {0} {|{question} }|{"score": 1}'


def test_a_conversation_is_shown_with_its_roles() -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    turns: list[Any] = [
        {"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "yes"},
    ]  # fmt: skip
    text = conversation_text(asked("") | {"messages": turns})  # type: ignore[operator]
    assert text == "User: Rain?\n\nAssistant: (calls weather with {'city': 'Oslo'})\n\nTool: yes"


@pytest.mark.parametrize(
    ("part", "template", "told"),
    [
        (
            "critic",
            "{question} {answer} {rubric} {draft}",
            r"critic\.template: \{draft\} is no placeholder; known",
        ),
        (
            "critic",
            "{question} {answer}",
            r"critic\.template: it lacks \{rubric\}, so the model would not see",
        ),
        ("thinker", "{question} {draft}", r"thinker\.template: it lacks \{objections\}"),
        ("solver", "Solve it.", r"solver\.template: it lacks \{question\}"),
    ],
)
def test_templates_that_cannot_be_meant_are_refused(part: str, template: str, told: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.labeller\.{told}"):
        Team({Part(part): Role("m", template)})


@pytest.mark.parametrize(("name", "value"), [("rounds", 0), ("approve", 6), ("approve", 0)])
def test_numbers_that_cannot_be_meant_are_refused(name: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"^{name}: {value}; give"):
        Team({}, **{name: value})


def test_a_role_without_a_model_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^data\.labeller\.critic\.model: not given; name the model of the cri"
    ):
        ThreeAgents(thinker=Role("m"), solver=Role("m"), critic=Role(None))  # type: ignore[arg-type]
