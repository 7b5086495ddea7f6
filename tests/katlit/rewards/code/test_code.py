"""Programs, right, wrong and hostile, in the real sandbox.

More than 300 lines because thirty attacks are written out.
"""

import json
import os
import platform
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import yaml

from katlit.errors import UserError
from katlit.rewards import AccuracyReward, CodeReward, Sample, Verdict
from katlit.rewards.code import reward as code
from katlit.rewards.code import sandbox, sandboxed_process
from katlit.rewards.code.sandboxed_process import Ending, watch
from katlit.rewards.code.starvation import Times
from katlit.text.protocol import Mode, ParsedResponse

PROBLEMS = Path(__file__).parents[3] / "stubs/code_problems.yaml"
SQUARE = {"asserts": ["assert f(2) == 4", "assert f(-3) == 9"]}
CLONE = {"x86_64": "56", "aarch64": "220"}.get(platform.machine(), "-1")  # the system call
QUIET = {"inputs": [""], "outputs": ["0\n"]}  # for programs that try much, and print what they got, or 0
ECHO = {"inputs": ["1\n", "2\n"], "outputs": ["1\n", "2\n"]}


def sample(tests: object, program: str | None) -> Sample:
    prompt = {
        "id": "p1",
        "messages": [{"role": "user", "content": "?"}],
        "reference": tests if isinstance(tests, str) else json.dumps(tests),
        "verifier": "code",
        "domain": "code",
        "difficulty": 1,
        "metadata": {},
    }
    return Sample(prompt, ParsedResponse("easy", Mode.THINK_OFF, "", program, None), tokens=1)


def verdict(tests: object, program: str | None, **options: float) -> Verdict:
    return CodeReward(**options)([sample(tests, program)])[0]


def left_behind(folder: Path) -> list[str]:
    """What lies in the folder, and processes that work below it, even where it is gone.

    Our own process's folder stays until its end, with its lock.
    """
    found = [str(path) for path in folder.rglob("*") if path.name != ".lock"]
    found = [name for name in found if not re.fullmatch(r"katlit-sandbox-\w+", Path(name).name)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            place = str((process / "cwd").readlink())
        except OSError:  # it has ended, or is another user's
            continue
        found += [process.name] if place.startswith(f"{folder}/") else []
    return found


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


FORGED_PIPES = """
import json, os
for fd in range(3, 64):
    try:
        for _ in range(9):
            os.write(fd, b'["value", 4, []]\\n')
            os.write(fd, b'{"passed": 2, "why": "", "ended": false, "unsupported": ""}\\n')
    except OSError: pass
def f(x): return 5
"""
FORGED_ERROR = """
import os
for fd in range(3, 64):
    try: os.write(fd, b'["error", "ValueError", "' + b'x' * 200000 + b'"]\\n')
    except OSError: pass
def f(x): return 5
"""
EQUAL_TO_ALL = """
class E(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(x): return E(7)
"""
PATCHED = """
import builtins, json, sys, operator
json.dumps = lambda *a, **k: '{"passed": 2, "why": "", "ended": false, "unsupported": ""}'
builtins.AssertionError = type('Never', (Exception,), {})
builtins.compile = builtins.exec = lambda *a, **k: None
sys.exit = lambda *a: None
def f(x): return 5
"""
TESTS_EDITED = """
import gc, sys
for o in gc.get_objects():
    if isinstance(o, dict) and 'tests' in o: o['tests'] = []
    if isinstance(o, list): o[:] = [x for x in o if not (isinstance(x, str) and x.startswith('assert'))]
frame = sys._getframe()
while frame: frame.f_locals.pop('tests', None); frame = frame.f_back
def f(x): return 5
"""
ATTRIBUTE = """
class Never:
    def __call__(self, x): return self
    def __getattr__(self, name): return self
    def __getitem__(self, key): return 4
    def __iter__(self): return iter([4])
    def __str__(self): return '4'
f = Never()
"""
NO_FORK = """
import os, time
for _ in range(50):
    try: child = os.fork()
    except OSError: raise SystemExit(3)
    if not child:
        time.sleep(5)
        os._exit(0)
"""
DAEMON = """
import ctypes, os, time
libc = ctypes.CDLL(None)
def escape():
    if libc.fork() == 0:
        libc.setsid()
        if libc.fork() == 0: time.sleep(20)
        os._exit(0)
escape()
if libc.syscall(CLONE, 17, 0, 0, 0, 0) == 0 or libc.syscall(435, b'\\0' * 88, 88) == 0:
    time.sleep(20)
    os._exit(0)
print(0)
"""
THREADS = """
import _thread, time
_thread.stack_size(1 << 15)
while True:
    try: _thread.start_new_thread(time.sleep, (99,))
    except RuntimeError: time.sleep(0.1)
"""
SIGNALS = """
import ctypes, fcntl, os, signal
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
for pid in (os.getppid(), 0, -1, 1, os.getpid()):
    try: os.kill(pid, 0); print('may signal', pid)  # signal 0: asks whether it might, and does nothing
    except OSError: pass
for command, value in ((fcntl.F_SETOWN, os.getppid()), (10, signal.SIGCONT), (15, 0)):
    try: fcntl.fcntl(0, command, value); print('may have others signalled')
    except OSError: pass
libc = ctypes.CDLL(None)
if libc.tgkill(os.getppid(), os.getppid(), 0) == 0: print('may signal a thread')
if libc.ptrace(0x4206, os.getppid(), 0, 0) == 0: print('may trace')
print(0)
"""
SECRETS = """
import ctypes, os
found = []
parent = os.getppid()
for path in (f'/proc/{parent}/environ', f'/proc/{parent}/cmdline', f'/proc/{parent}/mem',
             f'/proc/{parent}/maps', '/proc/self/environ', '/etc/passwd', '/etc/shadow', WITNESS,
             '/root/.bashrc', '/proc/kcore', '/dev/mem'):
    try: found.append(open(path, 'rb').read(99))
    except OSError: pass
for path in (f'/proc/{parent}/fd', f'/proc/{parent}/cwd', '/', '/tmp', '/home', '/proc'):
    try: found.append(os.listdir(path))
    except OSError: pass
found += [v for v in os.environ.values()]
print(found or 0)
"""
OUTSIDE = """
import os
acts = [
    lambda path: open(path, 'a').write('x'), lambda path: os.open(path, os.O_RDONLY | os.O_TRUNC),
    lambda path: os.truncate(path, 0), lambda path: os.chmod(path, 0), lambda path: os.chown(path, 1, 1),
    lambda path: os.utime(path, (0, 0)), lambda path: os.symlink(path, 'link'),
    lambda path: os.link(path, 'hard'), lambda path: os.rename(path, path + 'r'),
    lambda path: os.unlink(path), lambda path: os.mkdir(path + 'd'), lambda path: os.mkfifo(path + 'f'),
]
for path in (WITNESS, WITNESS + '-escaped'):
    for act in acts:
        try: act(path)
        except OSError: pass
print(0)
"""
NETWORK = """
import socket
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 16, 17):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        try: print('socket', socket.socket(family, kind))
        except OSError: pass
try: print('pair', socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
except OSError: pass
print(0)
"""
LIMITS_RAISED = """
import resource, sys
for name in ('CPU', 'AS', 'FSIZE', 'NOFILE'):
    try: resource.setrlimit(getattr(resource, 'RLIMIT_' + name), (-1, -1)); print('raised', name)
    except (OSError, ValueError): pass
print(0)
"""
FILES = """
import time
for i in range(100):
    with open(f'f{i}', 'wb') as file: file.write(b'x' * (1 << 20))
time.sleep(2)
"""

FILES_WITHOUT_NAMES = """
import os, time
held = [open(f'f{i}', 'wb') for i in range(9)]
for i, file in enumerate(held):
    os.unlink(f'f{i}')
    file.write(b'x' * (8 << 20))
    file.flush()
time.sleep(2)
"""

# Name: what is tested, the program, and a part of the reason. Each is made so that it does no harm
# even where the sandbox fails: it asks, counts to a bound, and touches no file but those of the test.
ATTACKS: dict[str, tuple[object, str, str]] = {
    "fork bomb": (ECHO, NO_FORK, "exit status 3"),
    "daemon": (QUIET, DAEMON, "passed"),
    "thread bomb": (ECHO, THREADS, "threads"),
    "memory hog": (ECHO, "x = [bytearray(1 << 20) for _ in range(1024)]", "MemoryError"),
    "one huge allocation": (ECHO, "x = 'x' * (1 << 40)", "MemoryError"),
    "endless output": (ECHO, "while True: print('x' * 9999)", "wrote more than"),
    "endless errors": (ECHO, "import sys\nwhile True: sys.stderr.write('x' * 9999)", "wrote more than"),
    "endless loop": (ECHO, "while True: pass", "out of processor time"),
    "endless loop that ignores the signal": (
        ECHO,
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "killed by signal 9",
    ),
    "sleeper with closed pipes": (
        ECHO, "import os, time\nfor i in 0, 1, 2: os.close(i)\ntime.sleep(99)", "did not end within 8 s",
    ),
    "signal tricks": (QUIET, SIGNALS, "passed"),
    "secrets": (QUIET, SECRETS, "passed"),
    "files outside": (QUIET, OUTSIDE, "passed"),
    "files inside": (ECHO, FILES, "files"),
    "files without names": (ECHO, FILES_WITHOUT_NAMES, "files"),
    "network": (QUIET, NETWORK, "passed"),
    "limits raised": (QUIET, LIMITS_RAISED, "passed"),
    "another program": (ECHO, "import os\nos.execv('/bin/echo', ['echo', '1'])", "PermissionError"),
    "crash of the interpreter": (ECHO, "import ctypes\nctypes.string_at(0)", "killed by signal 11"),
    "exit at once, printed": (ECHO, "import os\nprint(1, flush=True)\nos._exit(0)", "test 2 of 2"),
    "exit at once, asserted": (SQUARE, "import os\nos._exit(0)", "the program ended"),
    "exit in the call": (SQUARE, "import os\ndef f(x): os._exit(0)", "the program ended"),
    "verdict written to every descriptor": (SQUARE, FORGED_PIPES, "test "),
    "error written to every descriptor": (SQUARE, FORGED_ERROR, "test 1 of 2: ValueError: x"),
    "huge key": ({"asserts": ["{}[f(2)]"]}, "def f(x): return 'x' * 200000", "test 1 of 1: KeyError"),
    "equal to everything": (SQUARE, EQUAL_TO_ALL, "assertion failed"),
    "everything patched": (SQUARE, PATCHED, "test 1 of 2"),
    "tests edited": (SQUARE, TESTS_EDITED, "assertion failed"),
    "object of all attributes": (SQUARE, ATTRIBUTE, "assertion failed"),
    "huge reply": (SQUARE, "def f(x): return 'x' * (64 << 20)", "test 1 of 2"),
    "deep reply": (
        SQUARE, "def f(x):\n    r = []\n    for _ in range(10**5): r = [r]\n    return r", "RecursionError",
    ),
    "system exit": (SQUARE, "def f(x): raise SystemExit(0)", "the program ended"),
    "assertion caught": (
        {"asserts": ["try:\n    assert f(2) == 4\nexcept EOFError:\n    pass"]},
        "import os\ndef f(x): os._exit(0)",
        "the program ended",
    ),
}  # fmt: skip


@pytest.mark.slow
def test_attacks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ATTACKS) >= 25
    monkeypatch.setenv("KATLIT_TEST_SECRET", "do-not-tell")
    witness = tmp_path / "witness"
    witness.write_text("untouched")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    threads = threading.active_count()
    then = witness.stat()
    state = then.st_mode, then.st_size, then.st_mtime_ns, then.st_ctime_ns
    attacks = [
        (tests, program.replace("WITNESS", repr(str(witness))).replace("CLONE", CLONE))
        for tests, program, _ in ATTACKS.values()
    ]
    reward = CodeReward(cpu_seconds=1, wall_seconds=8.0, memory_mib=256)
    good = [sample(ECHO, "print(input())"), sample(SQUARE, "def f(x): return x * x")]
    verdicts = reward([sample(*attack) for attack in attacks] + good)
    assert [verdict.value for verdict in verdicts[-2:]] == [1.0, 1.0]
    unexpected = {
        name: found
        for (name, (_, _, reason)), found in zip(ATTACKS.items(), verdicts[:-2], strict=True)
        if found.value != (reason == "passed") or reason not in found.reason
    }
    assert unexpected == {}
    assert left_behind(scratch) == []
    now = witness.stat()
    assert (now.st_mode, now.st_size, now.st_mtime_ns, now.st_ctime_ns) == state
    assert sorted(tmp_path.iterdir()) == [scratch, witness]
    assert threading.active_count() == threads


@pytest.mark.slow
def test_sixty_four_at_once_have_their_time() -> None:
    """All of them run at once, so that each waits much longer than it may compute."""
    program = "n = int(input())\nprint(sum(i % 7 for i in range(10**6)) * 0 + n)"
    reward = CodeReward(cpu_seconds=1, wall_seconds=120.0, workers=64)
    verdicts = reward([sample(ECHO, program)] * 64)
    assert {(verdict.value, verdict.reason) for verdict in verdicts} == {(1.0, "passed 2 tests")}


ORPHAN = """
import sys
from katlit.rewards.code.sandbox import Limits, Sandbox
process = Sandbox(Limits()).start("import time; time.sleep(99)", {})
with process:
    print(process._process.pid, process.scratch, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_program_dies_with_the_trainer_and_its_folder_at_the_next_start(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    trainer = subprocess.Popen([sys.executable, "-c", ORPHAN], text=True, env=environment, **pipes)
    with trainer:
        number, scratch = trainer.stdout.readline().split()
        second = sandboxed_process._own_folder(str(tmp_path))
        assert Path(scratch).is_dir()  # of a process that lives
        watched = os.pidfd_open(int(number))
        try:
            time.sleep(0.5)  # long enough to have begun
            trainer.kill()
            assert select.select([watched], [], [], 30)[0]
        finally:
            os.close(watched)
    assert len(list(tmp_path.iterdir())) == 2
    sandboxed_process._own_folder.cache_clear()
    third = sandboxed_process._own_folder(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted([second, third])


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


def test_what_programs_may_use() -> None:
    program = """
import asyncio, random, sys, tempfile, threading
sys.setrecursionlimit(10**6)
threading.stack_size(64 << 20)
def depth(n): return n and 1 + depth(n - 1)
async def wait(): await asyncio.sleep(0.001)
asyncio.run(wait())
thread = threading.Thread(target=lambda: print(depth(20000)))
thread.start(); thread.join()
with open('notes', 'w+') as file: file.write('kept'); file.seek(0); print(file.read())
print(open('/dev/stdin').read(), len(str(10**5000)), {'b', 'a', 'c'}, sys.argv)
"""
    first, second = (
        CodeReward()._sandbox.start(program, {"__name__": "__main__"}, standard_input=b"in") for _ in "12"
    )
    with first, second:
        watch(first)
        watch(second)
        assert first.ending() == second.ending()
        assert first.ending().output.startswith(b"20000\nkept\nin 5001 {")


READS = [
    "import os\ns = os.read(0, os.fstat(0).st_size).decode()",
    "import os, io\ns = io.BytesIO(os.read(0, os.fstat(0).st_size)).readline().decode() + '2\\n'",
    "s = open(0).read()",
    "s = open('/dev/stdin').read()",
    "import sys\ns = sys.stdin.buffer.read().decode()",
    "import sys\ns = ''.join(sys.stdin.readlines())",
    "import fileinput\ns = ''.join(fileinput.input())",
    "import mmap\ns = mmap.mmap(0, 0, access=mmap.ACCESS_READ)[:].decode()",
    "import sys\nsys.stdin.seek(0, 2); n = sys.stdin.tell(); sys.stdin.seek(0); s = sys.stdin.read(n)",
    "import resource, sys\nresource.setrlimit(resource.RLIMIT_STACK, (1 << 28, -1))\ns = sys.stdin.read()",
    "import io, os\ninput = io.BytesIO(os.read(0, 99)).readline\ns = (input() + input()).decode()",
]


@pytest.mark.parametrize("read", READS)
def test_how_programs_read_their_input(read: str) -> None:
    found = verdict({"inputs": ["1\n2\n"], "outputs": ["1\n2\n"]}, f"{read}\nprint(s, end='')")
    assert found == Verdict(1.0, "passed 1 tests")


START = """
import builtins
names = "exit quit copyright credits license help __file__ __name__ __doc__ __spec__ __builtins__".split()
missing = [name for name in names if name not in globals() and not hasattr(builtins, name)]
print(__name__, __file__, *missing)
exit()
"""


def test_what_python_offers_at_its_start() -> None:
    assert verdict({"inputs": [""], "outputs": ["__main__ program.py"]}, START).reason == "passed 1 tests"
    assert verdict(QUIET, "print(0)\nquit(1)").value == 0.0


INPUT_KEPT = """
import fcntl, mmap, os
acts = [
    lambda: os.write(0, b'x'), lambda: os.ftruncate(0, 1 << 20), lambda: os.pwrite(0, b'x', 9),
    lambda: open('/dev/stdin', 'wb', 0).write(b'x'), lambda: open('/proc/self/fd/0', 'r+b', 0).write(b'x'),
    lambda: mmap.mmap(0, 0, access=mmap.ACCESS_WRITE), lambda: os.memfd_create('own'),
    lambda: fcntl.fcntl(0, 1033, 1),
]
for number, act in enumerate(acts):
    try: act(); print('may', number)
    except OSError: pass
print(open(0).read(), end='')
"""


def test_a_program_cannot_change_its_input() -> None:
    assert verdict({"inputs": ["0\n"], "outputs": ["0\n"]}, INPUT_KEPT).reason == "passed 1 tests"


def test_a_long_input_is_not_the_programs_own_file() -> None:
    tests = {"inputs": ["x" * (65 << 20)], "outputs": ["0"]}
    assert verdict(tests, "import time\ntime.sleep(0.3)\nprint(0)").reason == "passed 1 tests"


def test_a_test_that_cannot_be_asked_is_not_the_programs_fault() -> None:
    found = verdict({"asserts": ["assert f(lambda: 4) == 4"]}, "def f(g): return g()")
    assert found == Verdict(None, "a test hands the program a function, which cannot be sent")


@pytest.mark.parametrize("name", ["error written to every descriptor", "huge key"])
def test_a_program_cannot_make_its_verdict_unreadable(name: str) -> None:
    tests, program, reason = ATTACKS[name]
    found = verdict(tests, program)
    assert (found.value, reason in found.reason) == (0.0, True)


def test_how_a_program_ended_is_told_by_itself() -> None:
    """It closes its line to the tests first, and takes its time to end."""
    slow = "import atexit, time\natexit.register(time.sleep, 1)\ndef f(x): raise SystemExit({})"
    assert verdict(SQUARE, slow.format(0)) == Verdict(0.0, "test 1 of 2: the program ended")
    assert verdict(SQUARE, slow.format(3)) == Verdict(0.0, "test 1 of 2: exit status 3")
    for_ever = verdict(SQUARE, slow.format(0).replace("1)", "99)", 1), wall_seconds=2.0)
    assert for_ever == Verdict(0.0, "test 1 of 2: did not end within 2 s")


def test_removed_files_count_while_they_are_open(tmp_path: Path) -> None:
    def counted(process: int) -> int:
        return sandboxed_process._nameless_bytes(process, given)

    given = (0, 0)
    before = counted(os.getpid())
    with (tmp_path / "named").open("wb") as file:
        file.truncate(1 << 20)
        twice = os.dup(file.fileno())
        assert counted(os.getpid()) == before
        (tmp_path / "named").unlink()
        assert counted(os.getpid()) == before + (1 << 20)
        removed = os.fstat(twice)
        given = removed.st_dev + 1, removed.st_ino  # another file with the same number
        assert counted(os.getpid()) == before + (1 << 20)
        given = removed.st_dev, removed.st_ino
        assert counted(os.getpid()) == before
        given = (0, 0)
        os.close(twice)
    assert counted(os.getpid()) == before


def test_an_unreadable_verdict_of_tests_is_wrong() -> None:
    cut = "import os\nf(2)\nfor fd in range(3, 64):\n    try: os.write(fd, b'{')\n    except OSError: pass\n"
    found = verdict({"asserts": [cut], "names": ["f"]}, "def f(x): return x")
    assert found == Verdict(0.0, "the tests' verdict cannot be read")


def test_a_sandbox_that_fails_judges_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = CodeReward()
    assert reward([sample(ECHO, "print(input())")])[0].value == 1.0
    monkeypatch.setattr(sandboxed_process, "_PYTHON", ("-c", "1/0"))
    assert reward([sample(ECHO, "print(input())")]) == [
        Verdict(None, "sandbox: the program could not be started (ZeroDivisionError: division by zero)")
    ]
    assert reward([sample(SQUARE, "x = 1")])[0].value is None
    monkeypatch.setattr(sandboxed_process.sys, "executable", "/nowhere/python")
    assert reward([sample(ECHO, "print(input())")]) == [
        Verdict(None, "sandbox: no process could be started (No such file or directory)")
    ]


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


@pytest.mark.parametrize(
    ("launched", "share"),
    [
        ({}, 96),
        ({"LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "32"}, 12),
        ({"WORLD_SIZE": "2"}, 48),
        ({"LOCAL_WORLD_SIZE": "97"}, 1),
    ],
)
def test_ranks_share_the_processors(
    monkeypatch: pytest.MonkeyPatch, launched: dict[str, str], share: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(96)))
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    reward = CodeReward()  # made before Lightning starts the other ranks
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert reward._free._initial_value == share


def test_a_machine_that_cannot_confine_is_refused_unless_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sandbox.Sandbox, "_missing", lambda self, means: "no such call" * (means == "landlock")
    )
    with pytest.raises(UserError, match=r"lacks landlock \(no such call\).*allow_weaker_sandbox: true"):
        verdict(ECHO, "print(input())")
    with pytest.warns(UserWarning, match=r"the sandbox is weaker without landlock"):
        found = CodeReward(allow_weaker_sandbox=True)([sample(QUIET, "import os\nos.fork()")])
    assert found == [Verdict(0.0, "test 1 of 1: PermissionError: [Errno 1] Operation not permitted")]


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
