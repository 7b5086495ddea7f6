"""Forms that the tests of a program may have, and limits, good and bad ones."""

import json
from pathlib import Path

import pytest
from programs import verdict

from katlit.errors import UserError
from katlit.rewards import CodeReward, Verdict


def test_the_forms_in_the_docs_are_read() -> None:
    lines = (Path(__file__).parents[4] / "docs/rewards.md").read_text(encoding="utf-8").splitlines()
    forms = [line for line in lines if line.startswith(('{"inputs"', '{"asserts"', '{"fn_name"'))]
    assert len(forms) == 3
    assert verdict(forms[0], "print(sum(map(int, input().split())))") == Verdict(1.0, "passed 2 tests")
    for form in forms[1:]:
        assert verdict(form, "def double(x): return 2 * x") == Verdict(1.0, "passed 2 tests")


def test_the_line_in_the_docs_converts_a_row_of_livecodebench() -> None:
    text = (Path(__file__).parents[4] / "docs/rewards.md").read_text(encoding="utf-8")
    (line,) = [part for part in text.split("```python\n")[1:] if part.startswith("cases =")]
    for name, given in (("f", "1\n[2, 3]"), (None, "1\n2 3\n")):
        cases = [{"input": given, "output": "6", "testtype": "any"}]
        metadata = {"func_name": name} if name else {}
        space = {
            "json": json,
            "row": {"public_test_cases": json.dumps(cases), "metadata": json.dumps(metadata)},
        }
        exec(line.partition("```")[0], space)  # noqa: S102 (our own docs)
        answer = "def f(a, b): return a + sum(b)" if name else "print(sum(map(int, open(0).read().split())))"
        assert verdict(space["reference"], answer) == Verdict(1.0, "passed 1 tests")


def test_a_tolerance_holds_for_what_is_printed() -> None:
    tests = {"inputs": ["3\n"], "outputs": ["0.333333333\n"]}
    assert verdict(tests, "print(1 / int(input()))").value == 0.0
    assert verdict(tests | {"tolerance": 1e-6}, "print(1 / int(input()))").value == 1.0


@pytest.mark.parametrize(
    ("tests", "what"),
    [
        ("", "is not JSON"),
        ("[" * 10**5, "is not JSON"),
        ("4", "is not a JSON object"),
        ({"inputs": ["1"]}, r"has the keys \['inputs'\]"),
        ({"inputs": ["1"], "outputs": []}, "needs a list of texts, at least one, as 'outputs'"),
        ({"inputs": ["1"], "outputs": ["1", "2"]}, "has 1 inputs and 2 outputs"),
        ({"inputs": [1], "outputs": ["1"]}, "needs a list of texts, at least one, as 'inputs'"),
        ({"asserts": ["assert f(2) =="]}, "has a test that is not Python"),
        (
            {"asserts": ["assert isclose(f(2), 4)"]},
            r"use \['f', 'isclose'\]; list what the program must define",
        ),
        ({"asserts": ["assert sum([2]) == 2"]}, "only names that are built in"),
        ({"asserts": ["assert f(2)"], "names": "f"}, "as 'names'"),
    ],
)
def test_bad_tests_are_named(tests: object, what: str) -> None:
    with pytest.raises(UserError, match=f"prompt 'p1': verifier 'code' needs tests as reference.*{what}"):
        verdict(tests, None)


@pytest.mark.parametrize(
    "options", [{"cpu_seconds": 0}, {"wall_seconds": 0.0}, {"memory_mib": 1}, {"workers": 0}], ids=str
)
def test_bad_limits_are_named(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(options))}: .*give at least"):
        CodeReward(**options)
