"""Programs that pass their tests."""

import json
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample, Verdict
from katlit.rewards.code.agreement import same_output
from katlit.rewards.code.answer_program import program_of
from katlit.rewards.code.code_tests import AssertTests, InputOutputTests, tests_of
from katlit.rewards.code.sandbox import Limits, Sandbox
from katlit.rewards.code.sandboxed_process import SandboxedProcess, SandboxError, watch
from katlit.rewards.code.starvation import starved
from katlit.text.printable import short_line

_STARVED = "CodeReward: the machine was too busy for a program; give fewer workers or more wall_seconds"
_MODULES = ("agreement", "offered", "plain_data", "remote")  # that run in the sandbox too, in this order
_SPARE_BYTES = 1 << 16  # that a program may print beyond what is expected


class CodeReward(Reward):
    """1 where the answer's Python program passes all tests of the prompt (`tests_of`), else 0.

    The program is the fenced block of the answer that can do what the tests ask (`program_of`), or the whole
    answer where there is none. It has Python's standard library, threads, and an empty folder; it cannot
    start processes or reach the network, see `Sandbox`.

    - Inputs and outputs: each test runs the program anew; it must end with status 0 and print what is
      expected, but for white space at the ends of lines and of the output.
    - Asserts: the program is run once, as a module, and its functions are called from another process, which
      holds the tests (`katlit.rewards.code.assertions`).

    The first test that fails ends the matter; so does a limit: time that ran out is wrong, not unjudged,
    since the limit is on the program's own processor time and belongs to the task. Only where the time by the
    clock ran out while others had the processor (`starved`), the program is unjudged.

    Args:
        cpu_seconds: Processor time of the program, for each input, or for all asserts together.
        wall_seconds: Time by the clock, likewise.
        memory_mib: Address space of a process; asserts need two.
        workers: Programs that run at once; default: this process's share of the processors, see
            `processor_share`.
        allow_weaker_sandbox: Go on where the kernel lacks Landlock or seccomp; see `Sandbox` for the risk.

    Raises:
        UserError: where a limit is too small, the machine cannot confine programs, or a prompt has no tests.
    """

    def __init__(
        self,
        cpu_seconds: int = 5,
        wall_seconds: float = 30.0,
        memory_mib: int = 1024,
        workers: int | None = None,
        *,
        allow_weaker_sandbox: bool = False,
    ) -> None:
        if workers is not None and workers < 1:
            raise UserError(f"workers: {workers}; give at least 1, or none for all processors")
        self._sandbox = Sandbox(
            Limits(cpu_seconds, wall_seconds, memory_mib), allow_weaker=allow_weaker_sandbox
        )
        self._workers = workers

    @cached_property
    def _free(self) -> threading.BoundedSemaphore:
        """Places for programs, of all calls together, which may come from several threads."""
        return threading.BoundedSemaphore(self._workers or processor_share())

    def __getstate__(self) -> dict[str, Any]:
        """The settings, which are the same before and after use."""
        return {name: value for name, value in self.__dict__.items() if name != "_free"}

    def reference_problem(self, prompt: Prompt) -> str | None:
        """See `Reward`."""
        try:
            tests_of(prompt)
        except UserError as error:
            return str(error).removeprefix(f"prompt {prompt['id']!r}: ")
        return None

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        tests = [tests_of(sample.prompt) for sample in samples]
        with ThreadPoolExecutor(self._workers or processor_share(), "code-reward") as pool:
            return list(pool.map(self._verdict, samples, tests))

    def _verdict(self, sample: Sample, tests: InputOutputTests | AssertTests) -> Verdict:
        if sample.answer is None:
            return Verdict(0.0, "no answer")
        program = program_of(sample.answer, tests)
        try:
            with self._free:
                if isinstance(tests, AssertTests):
                    return self._by_asserts(program, tests)
                return self._by_output(program, tests)
        except SandboxError as error:
            return Verdict(None, str(error))

    def _by_output(self, program: str, tests: InputOutputTests) -> Verdict:
        total = len(tests.inputs)
        for number, (given, expected) in enumerate(zip(tests.inputs, tests.outputs, strict=True), 1):
            wanted = expected.encode()
            process = self._sandbox.start(
                program,
                {"__name__": "__main__"},
                standard_input=given.encode(),
                output_bytes=2 * len(wanted) + _SPARE_BYTES,
            )
            with process:
                watch(process)
                ending = process.ending()
            if ending.late and starved(ending.times):
                return Verdict(None, _STARVED, timed_out=True)
            same = same_output(ending.output, wanted, tests.tolerance)
            failure = ending.failure or ("" if same else "wrong output")
            if failure:
                return _failed(number, total, failure)
        return Verdict(1.0, f"passed {total} tests")

    def _by_asserts(self, program: str, tests: AssertTests) -> Verdict:
        with ExitStack() as stack:
            requests, replies = _pipe(stack), _pipe(stack)
            judge = stack.enter_context(
                self._role(
                    replies[0], requests[1], tests=tests.asserts, names=tests.names, objects=tests.objects
                )
            )
            answer = stack.enter_context(self._role(requests[0], replies[1], program=program))
            for end in (*requests, *replies):
                end.close()  # so that each process sees the other's end
            watch(judge, answer)
            return _judged(judge, answer, len(tests.asserts))

    def _role(self, read: IO[bytes], write: IO[bytes], **task: Any) -> SandboxedProcess:
        descriptors = read.fileno(), write.fileno()
        task |= {"read": descriptors[0], "write": descriptors[1]}
        return self._sandbox.start(
            _source("assertions"),
            {"__name__": "__main__", "task": task},
            descriptors=descriptors,
            modules={f"{__package__}.{name}": _source(name) for name in _MODULES},
        )


def processor_share() -> int:
    """How many of the machine's processors each of its ranks may use, at least one.

    Those that this process may run on, divided by the ranks on the machine: by `LOCAL_WORLD_SIZE`, which
    torchrun sets, else by `WORLD_SIZE`, all ranks, which Lightning's own launcher sets. Without either they
    are not divided; Slurm, for one, gives tasks processors of their own.
    """
    ranks = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or "1"
    return max(1, len(os.sched_getaffinity(0)) // int(ranks)) if sys.platform == "linux" else 1


@cache
def _source(name: str) -> str:
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")


def _pipe(stack: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    read, write = os.pipe()
    return stack.enter_context(os.fdopen(read, "rb")), stack.enter_context(os.fdopen(write, "wb"))


def _judged(judge: SandboxedProcess, answer: SandboxedProcess, total: int) -> Verdict:
    tests = judge.ending()
    if not tests.output:
        program = answer.ending()
        if tests.late and starved(program.times, tests.times):
            return Verdict(None, _STARVED, timed_out=True)
        return Verdict(0.0, answer.stopped or f"the tests came to no end: {tests.failure}")
    try:
        found = json.loads(tests.output)  # written by the judge, which runs nothing of the answer's
    except ValueError:  # no failure of the sandbox, for the judge has begun; unjudged would be a way out
        return Verdict(0.0, "the tests' verdict cannot be read")
    if found["unsupported"]:
        return Verdict(None, found["unsupported"])
    if found["passed"] == total:
        return Verdict(1.0, f"passed {total} tests")
    return _failed(found["passed"] + 1, total, _end_of(answer) if found["ended"] else found["why"])


def _end_of(answer: SandboxedProcess) -> str:
    """Why a program that no longer answers has ended; it closes its line to the tests before it ends."""
    watch(answer)
    return answer.ending().failure or "the program ended"


def _failed(number: int, total: int, why: str) -> Verdict:
    return Verdict(0.0, f"test {number} of {total}: {short_line(why)}")
