"""What programs may use, and how they read their input."""

import pytest
from programs import QUIET, verdict

from katlit.rewards import CodeReward, Verdict
from katlit.rewards.code.sandboxed_process import watch


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
