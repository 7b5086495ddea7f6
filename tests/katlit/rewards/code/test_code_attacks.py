"""Hostile programs in the real sandbox: none of them changes anything, its verdict included."""

import platform
import re
import tempfile
import threading
from pathlib import Path

import pytest
from programs import ECHO, QUIET, SQUARE, sample, verdict

from katlit.rewards import CodeReward

CLONE = {"x86_64": "56", "aarch64": "220"}.get(platform.machine(), "-1")  # the system call


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
import re
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
    "error written to every descriptor": (SQUARE, FORGED_ERROR, ""),  # whose words come first is a race
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


@pytest.mark.parametrize("name", ["error written to every descriptor", "huge key"])
def test_a_program_cannot_make_its_verdict_unreadable(name: str) -> None:
    tests, program, reason = ATTACKS[name]
    found = verdict(tests, program)
    assert (found.value, reason in found.reason) == (0.0, True)
