"""A user who asks for JSON gets it judged: the same answer, right or wrong, in and out of an object."""

import pytest

from katlit.batch import Prompt
from katlit.rewards import AccuracyReward, CompositeReward, Sample
from katlit.rewards.json_answers import plain_answer
from katlit.text.protocol import Mode, ParsedResponse


def sample(verifier: str, reference: str, answer: str | None, *, cut: bool = False) -> Sample:
    prompt: Prompt = {
        "id": "p1",
        "messages": [{"role": "user", "content": 'How much? Answer in JSON, with the key "answer".'}],
        "reference": reference,
        "verifier": verifier,
        "domain": "test",
        "difficulty": 1,
        "metadata": {},
    }
    return Sample(prompt, ParsedResponse("easy", Mode.THINK_OFF, "", answer, None), truncated=cut, tokens=1)


HELD = {
    '{"answer": 12}': "12",
    ' {"answer":12}\n': "12",
    '{\n  "answer": 12\n}': "12",
    '{"answer": -1.50e3}': "-1.50e3",
    '{"answer": "12"}': "12",
    '{"Answer": "blue \\"whale\\""}': 'blue "whale"',
    '{"answer": true}': "true",
    '{"result": 12}': "12",
    '{"steps": ["3 * 4"], "answer": 12}': "12",
    '```json\n{"answer": 12}\n```': "12",
    '```\n{"answer": 12}\n```\n': "12",
}
NO_OBJECT = [
    "12",
    "",
    "{}",
    '["answer", 12]',
    '[["answer", 12]]',
    r"\{12\}",
    "{12}",
    "{x: x > 12}",
    '{"a":' * 100_000,
]
TWO_OR_NONE = [
    '{"answer": 12',
    '{"answer": 13, "answer": 12}',
    '{"answer": 13, "Answer": 12}',
    '{"answer": 13} or {"answer": 12}',
    '{"answer": 13}\n{"answer": 12}',
    r'{"answer": 13, "answer": \boxed{12}}',
    "{'answer': 13, 'answer': 12}",
    '{"steps": 13, " Answer" : oops 12}',
    '{"answer": null, "b": 12}',
    '{"answer": null}',
    '{"answer": [12]}',
    '{"answer": {"answer": 12}}',
    '{"first": 13, "second": 12}',
    '```json\n{"answer": 13, "answer": 12}\n```',
    '```json\n{"answer": 13, "answer": 12}\n``` so 12',
    '{"answer":' * 100_000,
]


@pytest.mark.parametrize(("answer", "held"), HELD.items())
def test_what_an_object_says(answer: str, held: str) -> None:
    assert plain_answer(sample("match", "x", answer)) == held


@pytest.mark.parametrize("answer", NO_OBJECT, ids=lambda answer: answer[:40])
def test_what_is_no_object_stays(answer: str) -> None:
    assert plain_answer(sample("match", "x", answer)) == answer


@pytest.mark.parametrize("answer", TWO_OR_NONE, ids=lambda answer: answer[:40])
def test_an_object_with_two_answers_or_none_is_none(answer: str) -> None:
    assert plain_answer(sample("math", "12", answer)) is None
    assert plain_answer(sample("match", "{'answer': 12}", answer)) == answer


def test_no_answer_stays_none() -> None:
    assert plain_answer(sample("match", "x", None)) is None
    assert plain_answer(sample("match", "12", '{"answer": 12}', cut=True)) is None


def test_a_reference_that_is_an_object_is_compared_as_such() -> None:
    rewards = AccuracyReward()
    objects = [sample("match", '{"answer": 12}', answer) for answer in ('{"answer": 12}', "12")]
    assert [verdict.value for verdict in rewards(objects)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("verifier", "reference", "right", "wrong"),
    [
        ("match", "Blue whale", '{"answer": "blue whale"}', '{"answer": "whale"}'),
        ("match", "12", '{"answer": 12}', '{"answer": 12, "answer": 13}'),
        ("basic_arithmetic", "12", '{"answer": 12}', '{"answer": 13}'),
        ("leg_counting", "12", '{"answer": "12"}', '{"answer": "12 legs"}'),
        ("chain_sum", "12", '{"answer": 12.0}', '{"answer": 120}'),
        ("math", "12", '{"answer": 12}', '{"answer": 13}'),
        ("math", "12", '{"answer": 12}', '{"answer": 13, "answer": 12}'),
        ("math", "12", '{"answer": 12, "check": 144}', '{"answer": 13, "check": 12}'),
        ("math", r"\frac{1}{2}", r'{"answer": "\\frac{1}{2}"}', r'{"answer": "\\frac{1}{3}"}'),
        ("math", "1/2", '{"answer": 0.5}', '{"answer": 0.6}'),
        ("math", "(B)", '{"answer": "B"}', '{"answer": "A"}'),
        ("math", "Tuesday", '{"day": "Tuesday"}', '{"day": "Monday"}'),
        ("math", "7 apples", '{"answer": "7"}', '{"answer": "7 pears"}'),
        ("math", "12", '```json\n{"answer": "The answer is 12."}\n```', '{"answer": "12 or 13"}'),
    ],
)
def test_verifiers_judge_what_the_object_says(verifier: str, reference: str, right: str, wrong: str) -> None:
    reward = CompositeReward()
    judged = reward([sample(verifier, reference, answer) for answer in (right, wrong)])
    reward.close()
    assert judged.correct == [True, False]
    assert judged.total == pytest.approx([1.2, 0.2])
