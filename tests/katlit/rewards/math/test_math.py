"""`MathReward` against a table of labelled pairs, and against answers that are meant to break it."""

import contextlib
import os
import pickle
import resource
import threading
from pathlib import Path

import pytest

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards import AccuracyReward, MathReward, Sample
from katlit.rewards.math.workers import StartError, Worker, WorkerError, WorkerPool
from katlit.text.protocol import Mode, ParsedResponse

TABLE = Path(__file__).with_name("math_pairs.txt")
WORKING = "Natalia sold 48 clips in April. In May she sold half as many, and half of 48 is 24. " * 4


def pairs() -> dict[str, list[tuple[float, str, str]]]:
    """Label, reference and answer of each pair, by section."""
    sections: dict[str, list[tuple[float, str, str]]] = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            label, reference, answer = line.replace("⏎", "\n").split(" || ")
            section.append((float(label == "right"), reference, answer.replace("{working}", WORKING)))
    return sections


def sample(reference: str, answer: str | None) -> Sample:
    prompt = Prompt(
        id="p1", messages=[], reference=reference, verifier="math", domain="d", difficulty=1, metadata={}
    )
    return Sample(prompt, ParsedResponse("easy", Mode.THINK_OFF, "", answer, None), tokens=1)


def test_the_table_is_as_large_as_promised() -> None:
    sizes = {section: len(rows) for section, rows in pairs().items()}
    assert sum(sizes.values()) >= 500
    assert min(sizes[section] for section in ("exact", "symbolic", "alike", "formats", "units")) >= 30
    assert sizes["sentences"] >= 100


def test_every_pair_is_judged_as_labelled(reward: MathReward) -> None:
    rows = [row for section in pairs().values() for row in section]
    verdicts = reward([sample(reference, answer) for _, reference, answer in rows])
    missed = [(row, v) for row, v in zip(rows, verdicts, strict=True) if v.value != row[0]]
    assert missed == []
    assert all(verdict.reason and "\n" not in verdict.reason for verdict in verdicts)


LONG = {
    "digits": "1" * 10**6, "letters": "x" * 10**6, "braces": "{" * 10**6, "dollars": "$" * 10**6,
    "brackets": "(" * 10**6, "open boxes": r"\boxed{" * 10**5, "roots": r"\sqrt{" * 300 + "2" + "}" * 300,
    "squares": "²" * 10**6, "halves": "½" * 10**5, "phrases": "answer is " * 10**5, "stars": "*" * 10**6,
    "words": "a and " * 10**5, "list": "1," * 10**5, "layout": "\\left" * 10**5, "points": "5." * 10**5,
    "amounts": r"\$" * 900, "phrased formulas": r"answer: \(" * 200, "parts": "12 of " * 300 + "5",
    "sums": r"\sqrt{" * 60 + "2" + "}" * 60, "exponent": "1e999", "zero bytes": "\0\1\2", "huge": "100000!",
    "spaces": "$1" + " " * 1900 + "x$",
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_what_is_long_or_deep_is_wrong(reward: MathReward, name: str) -> None:
    (verdict,) = reward([sample("5", LONG[name])])
    assert verdict.value == 0


def test_a_long_text_may_end_in_the_answer(reward: MathReward) -> None:
    answers = ["so " * 10**5 + r"\boxed{5}", "so " * 10**5 + "$5$"]
    assert [verdict.value for verdict in reward([sample("5", answer) for answer in answers])] == [1, 1]


ENORMOUS = ["1E99999999", '{"answer": 1E99999999}', r"1.5\times 10^{-99999}", "(1e+99999, 2)", "2**10000"]


@pytest.mark.parametrize("answer", ENORMOUS)
def test_an_enormous_exponent_is_wrong_at_once(answer: str) -> None:
    alone = MathReward()
    assert [alone([sample(reference, answer)])[0].value for reference in ("12", "x+1")] == [0, 0]
    assert "_pool" not in vars(alone)  # no worker has looked at it
    assert alone([sample("10^{99999}", "$10^{99999}$")])[0].value == 1


ENDLESS = [
    r"\boxed{\prod_{k=1}^{10^8} k}", r"\prod_{k=1}^{10^8} (k+1)", r"\binom{10^9}{5\cdot10^8}",
    r"\binom{10^9}{4\cdot10^8}",
]  # fmt: skip


def test_what_takes_too_long_is_killed_and_unjudged_from_any_thread() -> None:
    before = children()
    reward = MathReward(timeout=1, workers=2)
    assert children() == before  # nothing starts before it is needed
    verdicts = []
    samples = [sample("5", answer) for answer in [*ENDLESS, "2+3", None]]
    thread = threading.Thread(target=lambda: verdicts.extend(reward(samples)))
    thread.start()
    thread.join()
    assert [verdict.value for verdict in verdicts] == [None] * 4 + [1.0, 0.0]
    assert all(verdict.timed_out for verdict in verdicts[:4])
    settings = pickle.dumps(reward)  # what the cache of labels is named by
    assert settings == pickle.dumps(MathReward(timeout=1, workers=2))
    reward.close()
    reward.close()
    assert children() == before
    assert reward([sample("5", "2+3")])[0].value == 1  # starts again
    reward.close()


def children() -> set[str]:
    """The ids of this process's children."""
    tasks = Path("/proc/self/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text().split()}


def test_verdicts_do_not_depend_on_the_workers(reward: MathReward) -> None:
    samples = [sample(reference, answer) for _, reference, answer in pairs()["symbolic"][:12]]
    alone = MathReward(timeout=30, workers=1)
    assert alone(samples) == reward(samples)
    alone.close()


def test_a_prompt_needs_a_reference() -> None:
    with pytest.raises(UserError, match="prompt 'p1': verifier 'math' needs a reference"):
        AccuracyReward()([sample(" ", "5")])
    with pytest.raises(UserError, match="timeout 0"):
        MathReward(timeout=0)


def test_unreadable_references_are_counted_in_the_log(
    reward: MathReward, caplog: pytest.LogCaptureFixture
) -> None:
    copy = pickle.loads(pickle.dumps(reward))  # noqa: S301 (our own)
    references = [f"All primes greater than {number}" for number in range(9)] + [r"\int 3 }{"]
    verdicts = copy([sample(reference, "3") for reference in [*references, "3"]])
    copy.close()
    assert [verdict.value for verdict in verdicts] == [0.0] * 10 + [1.0]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert lines[0].startswith("MathReward: 1 reference(s) so far cannot be read as mathematics")
    assert lines[1].startswith("MathReward: 10 reference(s)")


def script(directory: Path, body: str) -> Path:
    path = directory / "worker.py"
    path.write_text(f"import json, os, sys\nprint('ready', flush=True)\nfor line in sys.stdin:\n    {body}\n")
    return path


def test_a_worker_sees_neither_our_environment_nor_our_path(tmp_path: Path) -> None:
    assert len(os.environ) > 1
    show = "print(json.dumps([dict(os.environ), sys.path]), flush=True)"
    worker = Worker(script(tmp_path, show), [])
    environment, path = worker.ask({}, 30)
    worker.close()
    assert environment.keys() <= {"LC_CTYPE"}
    assert str(tmp_path) not in path


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("os._exit(1)", WorkerError),
        ("print('x' * 10**6, flush=True)", WorkerError),
        ("print('no json', flush=True)", WorkerError),
        ("sys.stdin.read()", TimeoutError),
    ],
)
def test_a_worker_that_fails_is_replaced(tmp_path: Path, body: str, failure: type[Exception]) -> None:
    answer = "print(line, flush=True)"
    path = script(tmp_path, f"{body} if 'bad' in line else {answer}")
    pool = WorkerPool(path, [], number=1, seconds=2)
    replies = pool.ask_all([{"a": 1}, {"a": "bad"}, {"a": 2}])
    pool.close()
    assert replies[::2] == [{"a": 1}, {"a": 2}]
    assert isinstance(replies[1], failure)


def test_more_descriptors_than_select_knows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip("this process may not open enough files")
    pool = WorkerPool(script(tmp_path, "print(line, flush=True)"), [], number=1, seconds=30)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        null = stack.enter_context(Path(os.devnull).open("rb")).fileno()
        for _ in range(1024):
            stack.callback(os.close, os.dup(null))
        stack.callback(pool.close)
        assert pool.ask({"a": 1}) == {"a": 1}


def test_an_interrupted_request_is_not_answered_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = WorkerPool(script(tmp_path, "print(line, flush=True)"), [], number=1, seconds=30)
    assert pool.ask({"a": 1}) == {"a": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_line", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.ask({"a": 2})
    assert pool.ask({"a": 3}) == {"a": 3}
    pool.close()


def interrupt(worker: Worker, deadline: float) -> bytes:
    raise KeyboardInterrupt


def test_a_worker_that_never_begins_ends_the_run_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "worker.py"
    monkeypatch.setattr("katlit.rewards.math.reward._SCRIPT", path)
    path.write_text("import no_such_package")
    reward = MathReward(workers=2)
    with pytest.raises(
        UserError, match=r"does not start \(.*ModuleNotFoundError: No module named 'no_such_pa"
    ):
        AccuracyReward(verifiers={"math": reward})([sample("x", "x + 0")] * 5)
    path.write_text("import sys; sys.stdin.read()")
    monkeypatch.setattr("katlit.rewards.math.workers.START_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"does not start \(not ready within 0\.5 s"):
        reward([sample("x", "x + 0")])
    monkeypatch.setattr("katlit.rewards.math.workers.sys.executable", "/nowhere/python")
    with pytest.raises(UserError, match=r"no process could be started: No such file"):
        reward([sample("x", "x + 0")])


def test_a_worker_that_dies_later_costs_only_its_request_and_says_why(tmp_path: Path) -> None:
    once = tmp_path / "once"
    path = tmp_path / "worker.py"
    path.write_text(
        f"""
import os, sys
os.mkdir({str(once)!r})  # fails when it is started again
print("ready", flush=True)
for line in sys.stdin:
    sys.stderr.write("noise\\n" * 10**5)  # more than a pipe holds
    if "bad" in line: raise MemoryError("\\x1b no room")
    print(line, flush=True)
"""
    )
    pool = WorkerPool(path, [], number=1, seconds=30)
    first, second, third = pool.ask_all([{"a": 1}, {"a": "bad"}, {"a": 2}])
    pool.close()
    assert first == {"a": 1}
    assert str(second) == "the worker died: MemoryError:   no room"
    assert isinstance(third, StartError)
    assert str(third).startswith("the worker died: FileExistsError")


def test_sympy_evaluates_numbers_only(tmp_path: Path) -> None:
    worker = Path(__file__).parents[4] / "katlit/rewards/math/math_worker.py"
    path = tmp_path / "evaluates.py"
    path.write_text(
        f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("worker", {str(worker)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.addaudithook(module.forbid_evaluation)
print("ready", flush=True)
import sympy
for line in sys.stdin:
    try:
        found = str(sympy.sympify(json.loads(line)["text"]))
    except Exception as error:
        found = str(error)
    print(json.dumps(found), flush=True)
"""
    )
    process = Worker(path, [])
    texts = ["12", "1.5", "__import__('os').getcwd()", "(lambda: 5)()", "x.__class__"]
    found = [process.ask({"text": text}, 30) for text in texts]
    process.close()
    assert found[:2] == ["12", "1.50000000000000"]
    assert all("only numbers are evaluated" in one for one in found[2:])
