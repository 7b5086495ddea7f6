import json
from dataclasses import replace
from typing import Any

import pytest

from katlit.datamodules.json_requests import REQUESTS
from katlit.datamodules.labelling.json_answers import json_records
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


def request_of(record: Record) -> tuple[str, int]:
    """What is asked for beside the question, and in which line."""
    lines = record.messages[-1]["content"].split("\n")
    place = 1 - lines.index("How much?")
    return lines[place], place


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
    (asked,) = json_records([record], accuracy, 1.0, 0)
    assert json.loads(asked.answer) == expected
    assert request_of(asked)[0] in REQUESTS
    assert record.messages[-1]["content"] == "How much?\n"
    assert asked.rewritten
    same = {name: getattr(record, name) for name in ("messages", "answer", "source", "rewritten")}
    assert replace(asked, **same) == record


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
def test_there_is_none_of_what_cannot_be_an_object(record: Record, accuracy: Reward) -> None:
    assert json_records([record], accuracy, 1.0, 0) == []


def test_the_last_question_asks(accuracy: Reward) -> None:
    turns = [
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "6+6"},
    ]
    (asked,) = json_records([record_of("12", "12", messages=turns)], accuracy, 1.0, 0)
    assert asked.messages[:2] == turns[:2]
    assert "6+6" in asked.messages[2]["content"].splitlines()


def test_a_share_of_the_records_by_seed_and_query(accuracy: Reward) -> None:
    records = [record_of("12", "12", id=str(number), forced=number % 2 == 0) for number in range(400)]

    some = json_records(records, accuracy, 0.25, 3)
    assert len(some) == pytest.approx(100, abs=25)
    alone = [json_records([record], accuracy, 0.25, 3) for record in records]
    assert [found for one in alone for found in one] == some
    assert [record.id for record in json_records(records, accuracy, 0.25, 4)] != [
        record.id for record in some
    ]
    assert json_records(records, accuracy, 0.0, 3) == []
    asking = [request_of(record) for record in some]
    assert set(asking) == {(request, place) for request in REQUESTS for place in (0, 1)}
    assert {record.answer for record in some} == {'{"answer": 12}', '{"answer":12}'}


def test_of_one_query_the_forced_record_is_drawn_apart(accuracy: Reward) -> None:
    pairs = [record_of("12", "12", id=str(n), forced=f) for n in range(100) for f in (False, True)]
    found = json_records(pairs, accuracy, 0.5, 0)
    drawn = {forced: {record.id for record in found if record.forced is forced} for forced in (True, False)}
    assert all(0 < len(ids) < 100 for ids in drawn.values())
    assert drawn[True] - drawn[False]
    assert drawn[False] - drawn[True]
