"""Tolerances, and the rows of data sets that name a function."""

import json
from typing import Any

import pytest
from judged import link_to

from katlit.errors import UserError
from katlit.rewards.code import code_tests
from katlit.rewards.code.agreement import same_output, same_value
from katlit.rewards.code.assertions import judge

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("found", "wanted", "tolerance", "same"),
    [
        ("0.33333", "0.333333333", 0.0, False),
        ("0.33333", "0.333333333", 1e-4, True),
        ("0.3334", "0.333333333", 1e-6, False),
        ("1000000.5", "1000000.0", 1e-6, True),  # relative
        ("1e3 YES\n.5 \n\n", "1000.0 YES\n0.50", 1e-6, True),
        ("3", "3.0000001", 1e-6, True),
        ("3.0", "3", 1e-6, True),
        ("1000001", "1000000", 1e-4, False),  # integers are exact
        ("1.0 2.0", "1.0\n2.0", 1e-6, False),
        ("1.0", "1.0 1.0", 1e-6, False),
        ("yes 1.0", "no 1.0", 1e-6, False),
        ("nan", "1.0", 1e-6, False),
        ("inf", "1.0", 1e-6, False),
        ("1.0", "inf", 1e-6, False),
        ("1e999", "1.0", 1e-6, False),
        ("1.0", "1e999", 1e-6, False),
        ("1_0.0", "10.0", 1e-6, False),
        ("", "1.0", 1e-6, False),
    ],
)
def test_output_with_a_tolerance(found: str, wanted: str, tolerance: float, same: bool) -> None:
    assert same_output(found.encode(), wanted.encode(), tolerance) is same


@pytest.mark.parametrize(
    ("found", "wanted", "tolerance", "same"),
    [
        ((1, [2]), [1, [2]], 0.0, True),
        ({1: 2.0}, {"1": 2}, 0.0, True),
        ([0.1 + 0.2], [0.3], 0.0, False),
        ([0.1 + 0.2], [0.3], 1e-9, True),
        (1000001, 1000000, 1e-4, False),
        (NAN, 1.0, 1e-4, False),
        (1.0, INF, 1e-4, False),
        (INF, INF, 1e-4, True),
        ("1.0", 1.0, 1e-4, False),
        ([1], 1, 0.0, False),
        ([1, 2], [1], 0.0, False),
        ({"a": 1}, {"b": 1}, 0.0, False),
        (object(), 1, 1e-4, False),
    ],
)
def test_values_with_a_tolerance(found: Any, wanted: Any, tolerance: float, same: bool) -> None:
    assert same_value(found, wanted, tolerance) is same


def read(form: object) -> code_tests.InputOutputTests | code_tests.AssertTests:
    return code_tests.tests_of({"id": "p", "reference": json.dumps(form), "verifier": "code"})


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        ({"inputs": [[1, 2], [3, 4]], "outputs": [3, 7]}, "a + b", "a + b + (a == 3)"),  # TACO
        ({"inputs": [[1, 2], [3, 4]], "outputs": [[3], [7]]}, "a + b", "[a - b]"),  # APPS
        ({"inputs": [[1, 2]], "outputs": [[3]]}, "[a + b]", "None"),
        ({"inputs": ["1\n2", "[3]\n[4]"], "outputs": ["3", "[3, 4]"]}, "a + b", "[a + b]"),  # LiveCodeBench
        ({"inputs": ['"x"\n"y"'], "outputs": ['"xy"']}, "a + b", "b + a"),
        ({"inputs": ['"x\u2028"\n"y"\n'], "outputs": ['"x\u2028y"']}, "a + b", "b + a"),
        ({"inputs": [["x", "y"]], "outputs": ["xy"]}, "a + b", "b + a"),
        ({"inputs": [[0.1, 0.2]], "outputs": [0.3], "tolerance": 1e-9}, "a + b", "a + b + 1e-6"),
        ({"inputs": [[1, 2]], "outputs": [[1, 2]]}, "(a, b)", "a"),
    ],
)
def test_rows_that_name_a_function(form: dict[str, Any], right: str, wrong: str) -> None:
    tests = read(form | {"fn_name": "f"})
    assert isinstance(tests, code_tests.AssertTests)
    for program in ("def f(a, b): return {}", "class Solution:\n    def f(self, a: List[int], b): return {}"):
        found = [judge(tests.asserts, tests.names, link_to(program.format(it))) for it in (right, wrong)]
        assert (found[0]["passed"], found[0]["why"]) == (len(form["inputs"]), "")
        assert found[1]["passed"] < len(form["inputs"])


@pytest.mark.parametrize("wanted", [True, [True]])
def test_a_function_has_one_try_a_test(wanted: object) -> None:
    tests = read({"fn_name": "f", "inputs": [[1], [2]], "outputs": [wanted, [False]]})
    assert isinstance(tests, code_tests.AssertTests)
    program = "last = False\ndef f(x):\n    global last\n    last = not last\n    return last"
    for found in (program, program.replace("last = False", "last = True", 1)):
        verdict = judge(tests.asserts[:1], tests.names, link_to(found))
        assert verdict["passed"] == (found == program)


def test_long_digits_are_read_at_once() -> None:
    assert not same_output(b"1" * 200_000 + b"x", b"1.5", 1e-6)


def test_lines_may_be_lists() -> None:
    form = {"inputs": [["2", "1 2"], "3"], "outputs": [["3"], "x"], "fn_name": None, "tolerance": 0.5}
    assert read(form) == code_tests.InputOutputTests(["2\n1 2", "3"], ["3", "x"], 0.5)


@pytest.mark.parametrize(
    ("form", "what"),
    [
        ({"inputs": ["1"], "outputs": ["1"], "tolerance": "a"}, "the tolerance 'a'"),
        ({"inputs": ["1"], "outputs": ["1"], "tolerance": 1}, "the tolerance 1"),
        ({"inputs": ["1"], "outputs": ["1"], "tolerance": NAN}, "the tolerance nan"),
        ({"inputs": ["1"], "outputs": ["1"], "fn_name": "f("}, "a name as 'fn_name'"),
        ({"inputs": ["1"], "outputs": ["x"], "fn_name": "f"}, "a call that cannot be read"),
        ({"inputs": [1], "outputs": [1], "fn_name": "f"}, "a call that cannot be read"),
        ({"inputs": [[1]], "outputs": [], "fn_name": "f"}, "1 inputs and 0 outputs"),
    ],
)
def test_bad_rows_are_named(form: object, what: str) -> None:
    with pytest.raises(UserError, match="needs tests as reference") as caught:
        read(form)
    assert what in str(caught.value)
