"""Programs, right, wrong and hostile, in the real sandbox."""

import json
import os
import tempfile
import threading
from pathlib import Path

import pytest
from codeproblems import PROBLEMS
from functionproblems import FUNCTION_PROBLEMS

from katlit.errors import UserError
from katlit.protocol import Mode, ParsedResponse
from katlit.rewards import AccuracyReward, CodeReward, Sample, Verdict
from katlit.rewards.code import program_of

SQUARE = {"asserts": ["assert f(2) == 4", "assert f(-3) == 9"]}
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
    return Sample(prompt, ParsedResponse("easy", Mode.THINK_OFF, "", program, None))


def verdict(tests: object, program: str | None, **options: float) -> Verdict:
    return CodeReward(**options)([sample(tests, program)])[0]


def left_behind() -> set[str]:
    """Scratch folders, and processes that run our sandbox."""
    folders = {str(path) for path in Path(tempfile.gettempdir()).glob("katlit-sandbox-*")}
    return folders | {pid for pid, command in commands().items() if "sandboxed.py" in command}


def commands() -> dict[str, str]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if parent in {"1", str(os.getpid())}:  # ours, or orphans
                found[folder.name] = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.slow
def test_a_hundred_right_and_a_hundred_wrong_programs() -> None:
    problems = PROBLEMS | FUNCTION_PROBLEMS
    table = [
        (f"{name}, {label} {number}", sample(problem.tests, program), value)
        for name, problem in problems.items()
        for label, programs, value in (("right", problem.right, 1.0), ("wrong", problem.wrong, 0.0))
        for number, program in enumerate(programs)
    ]
    assert len(problems) == 20
    assert [value for *_, value in table].count(1.0) == 100
    assert [value for *_, value in table].count(0.0) == 100
    verdicts = CodeReward(cpu_seconds=2)([entry for _, entry, _ in table])
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
        for _ in range(9): os.write(fd, b'["value", 4, []]\\n{"passed": 2, "why": "", "ended": false, "unsupported": ""}\\n')
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
import os
def bomb():
    while True:
        try: os.fork()
        except OSError: raise SystemExit(3)
bomb()
"""
DAEMON = """
import ctypes, os
libc = ctypes.CDLL(None)
if libc.fork() == 0:
    libc.setsid()
    if libc.fork() == 0:
        while True: open('here', 'a').write('x')
libc.vfork(); libc.syscall(56, 17, 0, 0, 0, 0); libc.syscall(435, b'\\0' * 88, 88)
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
for pid in (os.getppid(), 0, -1, os.getpid()):
    for s in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        try: os.kill(pid, s)
        except OSError: pass
r, w = os.pipe()
for command, value in ((8, os.getppid()), (10, 9), (4, os.O_ASYNC)):
    try: fcntl.fcntl(r, command, value)
    except OSError: pass
os.write(w, b'x')
libc = ctypes.CDLL(None)
libc.tgkill(os.getppid(), os.getppid(), 9); libc.ptrace(16, os.getppid(), 0, 0)
print(0)
"""
SECRETS = """
import ctypes, os
found = []
parent = os.getppid()
for path in (f'/proc/{parent}/environ', f'/proc/{parent}/cmdline', f'/proc/{parent}/mem', f'/proc/{parent}/maps',
             '/proc/self/environ', '/etc/passwd', '/etc/shadow', WITNESS, '/root/.bashrc', '/proc/kcore', '/dev/mem'):
    try: found.append(open(path, 'rb').read(99))
    except OSError: pass
for path in (f'/proc/{parent}/fd', f'/proc/{parent}/cwd', '/', '/tmp', '/home', '/proc'):
    try: found.append(os.listdir(path))
    except OSError: pass
found += [v for v in os.environ.values()]
print(found)
"""
OUTSIDE = """
import os
for path in (WITNESS, '/tmp/katlit-escaped', '/dev/shm/katlit-escaped', '/var/tmp/katlit-escaped', '../katlit-escaped',
             os.__file__, '/etc/katlit-escaped'):
    for act in (lambda: open(path, 'a').write('x'), lambda: os.open(path, os.O_RDONLY | os.O_TRUNC), lambda: os.truncate(path, 0),
                lambda: os.unlink(path), lambda: os.chmod(path, 0), lambda: os.utime(path, (0, 0)), lambda: os.rename(path, 'x'),
                lambda: os.symlink(path, 'link'), lambda: os.link(path, 'hard'), lambda: os.mkdir(path + 'd'),
                lambda: os.chown(path, 1, 1), lambda: os.mkfifo(path + 'f')):
        try: act()
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
import os
for i in range(10**6):
    try: f = open(f'f{i}', 'wb')
    except OSError: continue
    try: f.write(b'x' * (64 << 20))
    except OSError: pass
    f.close()
"""

# Name: what is tested, the program, and a part of the reason. None of them may pass.
ATTACKS: dict[str, tuple[object, str, str]] = {
    "fork bomb": (ECHO, NO_FORK, "exit status 3"),
    "daemon": (ECHO, DAEMON, "wrong output"),
    "thread bomb": (ECHO, THREADS, "threads"),
    "memory hog": (ECHO, "x = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError"),
    "one huge allocation": (ECHO, "x = 'x' * (1 << 40)", "MemoryError"),
    "endless output": (ECHO, "while True: print('x' * 9999)", "wrote more than"),
    "endless errors": (ECHO, "import sys\nwhile True: sys.stderr.write('x' * 9999)", "wrote more than"),
    "endless loop": (ECHO, "while True: pass", "out of processor time"),
    "endless loop that ignores the signal": (
        ECHO,
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "killed by signal 9",
    ),
    "sleeper with closed pipes": (ECHO, "import os, time\nfor i in 0, 1, 2: os.close(i)\ntime.sleep(99)", "within 8 s"),
    "signal tricks": (ECHO, SIGNALS, "wrong output"),
    "secrets": (ECHO, SECRETS, "wrong output"),
    "files outside": (ECHO, OUTSIDE, "wrong output"),
    "files inside": (ECHO, FILES, "files"),
    "network": (ECHO, NETWORK, "wrong output"),
    "limits raised": (ECHO, LIMITS_RAISED, "wrong output"),
    "another program": (ECHO, "import os\nos.execv('/bin/echo', ['echo', '1'])", "PermissionError"),
    "crash of the interpreter": (ECHO, "import ctypes\nctypes.string_at(0)", "killed by signal 11"),
    "exit at once, printed": (ECHO, "import os\nprint(1, flush=True)\nos._exit(0)", "test 2 of 2"),
    "exit at once, asserted": (SQUARE, "import os\nos._exit(0)", "the program ended"),
    "exit in the call": (SQUARE, "import os\ndef f(x): os._exit(0)", "the program ended"),
    "verdict written to every descriptor": (SQUARE, FORGED_PIPES, "test "),
    "equal to everything": (SQUARE, EQUAL_TO_ALL, "assertion failed"),
    "everything patched": (SQUARE, PATCHED, "test 1 of 2"),
    "tests edited": (SQUARE, TESTS_EDITED, "assertion failed"),
    "object of all attributes": (SQUARE, ATTRIBUTE, "assertion failed"),
    "huge reply": (SQUARE, "def f(x): return 'x' * (64 << 20)", "test 1 of 2"),
    "deep reply": (SQUARE, "def f(x):\n    r = []\n    for _ in range(10**5): r = [r]\n    return r", "RecursionError"),
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
    before, state = left_behind(), witness.stat()
    attacks = [(tests, program.replace("WITNESS", repr(str(witness)))) for tests, program, _ in ATTACKS.values()]
    reward = CodeReward(cpu_seconds=1, wall_seconds=8.0, memory_mib=256)
    good = [sample(ECHO, "print(input())"), sample(SQUARE, "def f(x): return x * x")]
    verdicts = reward([sample(*attack) for attack in attacks] + good)
    assert [verdict.value for verdict in verdicts[-2:]] == [1.0, 1.0]
    unexpected = {
        name: found
        for (name, (_, _, reason)), found in zip(ATTACKS.items(), verdicts[:-2], strict=True)
        if found.value != 0 or reason not in found.reason
    }
    assert unexpected == {}
    assert left_behind() <= before
    assert (witness.read_text(), witness.stat()) == ("untouched", state)
    assert not [path for path in ("/tmp", "/dev/shm", "/var/tmp") if (Path(path) / "katlit-escaped").exists()]  # noqa: S108
    assert threading.active_count() < 20
