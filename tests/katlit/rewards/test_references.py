"""What a reward says of a prompt before there is an answer to it."""

import pytest

from katlit.batch import Prompt
from katlit.rewards import AccuracyReward, CompositeReward, FormatReward


@pytest.mark.parametrize(
    ("verifier", "reference", "problem"),
    [
        ("match", "7", None),
        ("match", " \n", "verifier 'match' needs a reference, which is empty"),
        ("math", r"\frac\pi4", None),
        ("math", "", "verifier 'math' needs a reference, which is empty"),
        ("math", r"so \boxed{ }", r"its reference holds no answer: 'so \\boxed{ }'"),
        ("code", '{"asserts": ["assert f(2) == 4"]}', None),
        ("code", "[]", "is not a JSON object with keys"),
        ("code", '{"inputs": ["1"], "outputs": []}', "'outputs'"),
        ("leg_counting", "7", None),
        ("leg_counting", "", "needs a reference"),
        ("ab", "", None),  # nothing may be left of such a program
        ("mtch", "7", "'mtch' is unknown"),
        ("countdown", "7", "'countdown' is not on the list"),
        ("own", "", None),
    ],
)
def test_a_reference_that_no_answer_can_be_judged_by_is_seen_without_one(
    verifier: str, reference: str, problem: str | None
) -> None:
    accuracy = AccuracyReward(verifiers={"own": FormatReward()})
    asked: Prompt = {
        "id": "p1",
        "messages": [{"role": "user", "content": "?"}],
        "reference": reference,
        "verifier": verifier,
        "domain": "test",
        "difficulty": 1,
        "metadata": {},
    }
    of_all = CompositeReward({"accuracy": accuracy, "format": FormatReward()})
    for found in (accuracy.reference_problem(asked), of_all.reference_problem(asked)):
        assert found == problem if problem is None else problem in str(found)
        assert "\n" not in str(found)
