import json
from dataclasses import replace
from typing import Any

import pytest

from katlit.datamodules.labelling.json_answers import REQUESTS, with_json_answers
from katlit.datamodules.records import Record
from katlit.rewards import Reward
from katlit.text.protocol import Mode


def record_of(answer: str, reference: str, verifier: str = "match", **more: Any) -> Record:
    given: dict[str, Any] = {
        "id": answer,
        "messages": [{"role": "user", "content": "How much?\n"}],
        "regime": Mode.THINK_OFF,
        "judge": "easy",
        "verified": True,
    }
    return Record(answer=answer, reference=reference, verifier=verifier, **given | more)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (record_of("12", "12"), {"answer": 12}),
        (record_of(" 12\n", "12"), {"answer": 12}),
        (record_of("-0.50", "-0.50", "basic_arithmetic"), {"answer": -0.5}),
        (record_of("Blue whale", "blue whale"), {"answer": "Blue whale"}),
        (record_of('say "über"', 'say "über"'), {"answer": 'say "über"'}),
        (record_of("007", "007"), {"answer": "007"}),
        (record_of("He has 3 + 9, so he still has 12 balloons.", "12", "math"), {"answer": "12 balloons"}),
        (record_of("It is $\\frac{1}{2}$.", "0.5", "math"), {"answer": r"\frac{1}{2}"}),
        (record_of("Adding up,\n\\boxed{1,234}", "1234", "math"), {"answer": "1,234"}),
    ],
)
def test_the_object_holds_what_the_answer_comes_to(
    record: Record, expected: dict[str, Any], accuracy: Reward
) -> None:
    (asked,) = with_json_answers([record], accuracy, 1.0, 0)
    assert json.loads(asked.answer) == expected
    kind = "number" if isinstance(expected["answer"], float | int) else "string"
    question, request = asked.messages[-1]["content"].split("\n")
    assert (question, request) in [("How much?", text.replace("%s", kind)) for text in REQUESTS]
    assert record.messages[-1]["content"] == "How much?\n"
    unchanged = replace(asked, messages=record.messages, answer=record.answer, source=record.source)
    assert unchanged == record


@pytest.mark.parametrize(
    "record",
    [
        record_of("12", "12", verified=False),
        record_of("12 or 13", "12"),  # the verifier does not take it
        record_of("two\nlines", "two lines"),
        record_of("none", "[]", "tool_calls", tools=[{"type": "function", "function": {"name": "add"}}]),
        record_of('{"a": 1}', '{"a": 1}'),  # an object already
        record_of("word " * 100, "word " * 100),
        record_of("It is either 12 or 13, who knows.", "12", "math"),
    ],
)
def test_what_cannot_be_an_object_stays(record: Record, accuracy: Reward) -> None:
    assert with_json_answers([record], accuracy, 1.0, 0) == [record]


def test_the_last_question_asks(accuracy: Reward) -> None:
    turns = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "6+6"},
    ]
    (asked,) = with_json_answers([record_of("12", "12", messages=turns)], accuracy, 1.0, 0)
    assert asked.messages[:2] == turns[:2]
    assert asked.messages[2]["content"].splitlines()[0] == "6+6"


def test_a_share_of_the_records_by_seed_and_query(accuracy: Reward) -> None:
    records = [record_of("12", "12", id=str(number), forced=number % 2 == 0) for number in range(400)]

    def changed(found: list[Record]) -> set[str]:
        return {new.id for new, old in zip(found, records, strict=True) if new != old}

    some = with_json_answers(records, accuracy, 0.25, 3)
    assert len(changed(some)) == pytest.approx(100, abs=25)
    assert with_json_answers(records[7:8], accuracy, 0.25, 3) == some[7:8]
    assert changed(some) != changed(with_json_answers(records, accuracy, 0.25, 4))
    assert with_json_answers(records, accuracy, 0.0, 3) == records
    requests = {
        new.messages[-1]["content"].split("\n")[1].replace("number", "%s") for new in some if new.source
    }
    assert requests == set(REQUESTS)


def test_of_one_query_the_forced_record_is_drawn_apart(accuracy: Reward) -> None:
    pairs = [record_of("12", "12", id=str(n), forced=f) for n in range(100) for f in (False, True)]
    found = with_json_answers(pairs, accuracy, 0.5, 0)
    asked = [record.source != "" for record in found]
    assert len({(a, b) for a, b in zip(asked[::2], asked[1::2], strict=True)}) == 4
