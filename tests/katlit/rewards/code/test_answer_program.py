"""Which of an answer's fenced blocks is its program."""

import pytest

from katlit.rewards.code.answer_program import program_of
from katlit.rewards.code.code_tests import AssertTests, InputOutputTests

READS = InputOutputTests(["1\n"], ["1\n"])
PRINTS = InputOutputTests(["", "\n"], ["1\n", "1\n"])
CALLS = AssertTests(["assert f(2) == 4"], ["f"])
CALLS_BOTH = AssertTests(["assert g(f(2)) == 2"], ["f", "g"])

ONE = "```python\nprint(1)\n```\n"
READ = "n = input()\nprint(n)\n"
DEFINE = "def f(x):\n    return x * x\n"
METHOD = "class Solution:\n    def f(self, x):\n        return x * x\n"
USE = "```python\nprint(f(3))  # 9\n```\n"


@pytest.mark.parametrize(
    ("answer", "program"),
    [
        ("print(0)", "print(0)"),
        (f"Here:\n{ONE}so.", "print(1)\n"),
        (f"{ONE}better:\n```\nprint(2)\n```", "print(2)\n"),
        (f"{ONE}cut:\n```py\nprint(3)", "print(3)"),
        ("  ```\nx = '```'\n  ```", "x = '```'\n"),
        ("~~~python\nprint(4)\n~~~\n", "print(4)\n"),
        ("````python\nprint('''\n```\n''')\n````\n", "print('''\n```\n''')\n"),
        ("~~~\nprint('''\n```\n''')\n~~~\n", "print('''\n```\n''')\n"),
        ("1. So:\n\n    ```python\n    if 1:\n        print(5)\n    ```\n", "if 1:\n    print(5)\n"),
        ("\t```python3\n\tprint(6)\n\t```", "print(6)\n"),
        ("```py3\nprint(7)\n```", "print(7)\n"),
        ("``` Python title='x.py'\nprint(8)\n```", "print(8)\n"),
        ("```{.python .numbers}\nprint(9)\n```", "print(9)\n"),
        (f"{ONE}Run it:\n```bash\npython x.py\nprint\n```", "print(1)\n"),
        (f"{ONE}It gives\n```\n1\n```", "print(1)\n"),
        ("```text\nprint(1)\n```", "print(1)\n"),
        ("Say ```x``` or ``y``.", "Say ```x``` or ``y``."),
    ],
)
def test_every_kind_of_fence_is_one(answer: str, program: str) -> None:
    assert program_of(answer, PRINTS) == program


@pytest.mark.parametrize(
    ("tests", "answer", "program"),
    [
        (CALLS, f"```python\n{DEFINE}```\nExample usage:\n{USE}", DEFINE),
        (CALLS, f"```python\n{METHOD}```\nExample usage:\n{USE}", METHOD),
        (CALLS, "```\nf = abs\n```\nor\n```\nf: int = 3\n```\nas in\n```\nf == 3\n```", "f: int = 3\n"),
        (CALLS, f"```\ndef f(x): ...\n```\n```\n{DEFINE}```\n```\nassert f(2)\n```", DEFINE),
        (CALLS, f"{USE}```\ndef ff(x): ...\n```", "def ff(x): ...\n"),  # none defines it: the last
        (CALLS_BOTH, f"```\n{DEFINE}def g(x): ...\n```\n```\n{DEFINE}```", f"{DEFINE}def g(x): ...\n"),
        (READS, f"```python\n{READ}```\nExample usage:\n{ONE}", READ),
        (READS, f"```\nx = open(0).read()\n```\n{ONE}", "x = open(0).read()\n"),
        (READS, f"```\nx = os.read(0, 9)\n```\n{ONE}", "x = os.read(0, 9)\n"),
        (READS, f"```\nfor x in sys.stdin: print(x)\n```\n{ONE}", "for x in sys.stdin: print(x)\n"),
        (READS, f"```\n{READ}```\nInput:\n```\n3\n```", READ),
        (READS, f"{ONE}```\nprint(2)\n```", "print(2)\n"),
    ],
)
def test_the_solution_is_what_the_tests_need(
    tests: InputOutputTests | AssertTests, answer: str, program: str
) -> None:
    assert program_of(answer, tests) == program


@pytest.mark.parametrize("line", ["```{0}`x", "~~~{0}`x", "~~~{1}`x", "{0}```{0}`x"])
def test_a_line_that_is_nearly_a_fence_is_read_at_once(line: str) -> None:
    answer = line.format(" " * 100_000, "~" * 100_000)
    assert program_of(answer, PRINTS) == answer
