"""What is said of right and wrong programs, of those that end early, and of those that nobody can judge."""

from pathlib import Path

import pytest
import yaml
from programs import ECHO, SQUARE, sample, verdict

from katlit.rewards import AccuracyReward, CodeReward, Verdict
from katlit.rewards.code import reward as code
from katlit.rewards.code import sandbox
from katlit.rewards.code.sandboxed_process import Ending
from katlit.rewards.code.starvation import Times

PROBLEMS = Path(__file__).parents[3] / "stubs/code_problems.yaml"


@pytest.mark.slow
def test_a_hundred_right_and_a_hundred_wrong_programs() -> None:
    problems = yaml.safe_load(PROBLEMS.read_text(encoding="utf-8"))
    table = [
        (f"{name}, {label} {number}", sample(problem["tests"], program), value)
        for name, problem in problems.items()
        for label, programs, value in (("right", problem["right"], 1.0), ("wrong", problem["wrong"], 0.0))
        for number, program in enumerate(programs)
    ]
    assert len(problems) == 20
    assert [value for *_, value in table].count(1.0) == 100
    assert [value for *_, value in table].count(0.0) == 100
    verdicts = CodeReward(cpu_seconds=2, wall_seconds=120.0)([entry for _, entry, _ in table])
    misjudged = {
        name: found.reason
        for (name, _, value), found in zip(table, verdicts, strict=True)
        if found.value != value
    }
    assert misjudged == {}


def test_the_verifier_code_and_its_reasons() -> None:
    samples = [
        sample(ECHO, "```python\nprint(input())  \nprint()\n```"),
        sample(ECHO, "print(1)"),
        sample(ECHO, "print(undefined)"),
        sample(SQUARE, "def f(x): return x + x"),
        sample(ECHO, None),
    ]
    assert AccuracyReward()(samples) == [
        Verdict(1.0, "passed 2 tests"),
        Verdict(0.0, "test 2 of 2: wrong output"),
        Verdict(0.0, "test 1 of 2: NameError: name 'undefined' is not defined"),
        Verdict(0.0, "test 2 of 2: assertion failed"),
        Verdict(0.0, "no answer"),
    ]


def test_a_test_that_cannot_be_asked_is_not_the_programs_fault() -> None:
    found = verdict({"asserts": ["assert f(lambda: 4) == 4"]}, "def f(g): return g()")
    assert found == Verdict(None, "a test hands the program a function, which cannot be sent")


def test_how_a_program_ended_is_told_by_itself() -> None:
    """It closes its line to the tests first, and takes its time to end."""
    slow = "import atexit, time\natexit.register(time.sleep, 1)\ndef f(x): raise SystemExit({})"
    assert verdict(SQUARE, slow.format(0)) == Verdict(0.0, "test 1 of 2: the program ended")
    assert verdict(SQUARE, slow.format(3)) == Verdict(0.0, "test 1 of 2: exit status 3")
    for_ever = verdict(SQUARE, slow.format(0).replace("1)", "99)", 1), wall_seconds=2.0)
    assert for_ever == Verdict(0.0, "test 1 of 2: did not end within 2 s")


def test_an_unreadable_verdict_of_tests_is_wrong() -> None:
    cut = "import os\nf(2)\nfor fd in range(3, 64):\n    try: os.write(fd, b'{')\n    except OSError: pass\n"
    found = verdict({"asserts": [cut], "names": ["f"]}, "def f(x): return x")
    assert found == Verdict(0.0, "the tests' verdict cannot be read")


class Ended:
    """A process that has come to an end."""

    def __init__(self, ending: Ending) -> None:
        self.stopped = ending.failure
        self.ending = lambda: ending

    def __enter__(self) -> "Ended":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("tests", [ECHO, SQUARE], ids=["printed", "asserted"])
@pytest.mark.parametrize(
    ("late", "times", "unjudged"),
    [
        (True, Times(29.0, 3.0, 30.0), True),
        (True, Times(0.1, 0.1, 30.0), False),  # it slept
        (False, Times(29.0, 3.0, 30.0), False),  # it was about to be late, but failed before
    ],
)
def test_out_of_time_is_wrong_but_for_want_of_a_processor(
    monkeypatch: pytest.MonkeyPatch, tests: object, times: Times, *, late: bool, unjudged: bool
) -> None:
    ended = Ended(Ending("did not end", b"", late, times))
    monkeypatch.setattr(sandbox.Sandbox, "start", lambda *_, **__: ended)
    monkeypatch.setattr(code, "watch", lambda *_: None)
    found = verdict(tests, "pass")
    assert (found.value, found.timed_out) == ((None, True) if unjudged else (0.0, False))
    assert ("did not end", "too busy")[unjudged] in found.reason
