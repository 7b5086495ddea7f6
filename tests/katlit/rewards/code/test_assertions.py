"""The judge and the program of asserts, in one process."""

import json
import select
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged import judged, link_to

from katlit.rewards.code.assertions import judge
from katlit.rewards.code.plain_data import decode, encode
from katlit.rewards.code.remote import Link, Remote

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner)
    | st.sets(st.integers()) | st.frozensets(st.text()),
    max_leaves=20,
)  # fmt: skip


def no_object(value: Any) -> int:
    raise TypeError(value)


@given(PLAIN)
def test_plain_data_come_through_as_they_are(value: Any) -> None:
    received = decode(json.loads(json.dumps(encode(value, no_object))), no_object)
    assert received == value
    assert repr(received) == repr(value) or isinstance(value, list | tuple | dict | set | frozenset)
    assert type(received) is type(value)


def test_integers_of_any_length_come_through() -> None:
    assert decode(encode(-(10**5000), no_object), no_object) == -(10**5000)


def test_the_first_failure_is_reported() -> None:
    tests = ("assert f(2) == 4", "x = 3", "assert f(x) == 9, x", "assert f(4) == 16")
    passed = {"passed": 4, "why": "", "ended": False, "unsupported": ""}
    assert judged("def f(x): return x * x", *tests) == passed
    assert judged("def f(x): return x + x", *tests)["passed"] == 2
    assert judged("def f(x): return 1 / 0", *tests)["why"] == "ZeroDivisionError: division by zero"
    assert judged("def g(x): return x", *tests)["why"] == "NameError: the program defines no 'f'"
    assert judged("def f(x", *tests)["why"].startswith("SyntaxError")


def test_errors_of_the_program_are_the_nearest_built_in_ones() -> None:
    program = "class Odd(ValueError): pass\ndef f(x): raise Odd('odd')"
    test = (
        "try:\n    f(1)\nexcept ValueError as error:\n    assert str(error) == 'odd'\nelse:\n    assert False"
    )
    assert judged(program, test)["passed"] == 1
    assert judged("def f(x): raise type('E', (Exception,), {})", test)["passed"] == 0


def test_the_programs_objects_answer_but_equal_no_data() -> None:
    program = """
class Box:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return True
    def __len__(self): return 3
    def __iter__(self): return iter('abc')
    def __getitem__(self, key): return key * 2
    def __contains__(self, item): return item == 'a'
    def __str__(self): return f'Box({self.x})'
    def other(self, box, *, by): return box.x + by
f = Box
"""
    tests = (
        "b = f(x=5)",
        "assert b.x == 5 and len(b) == 3 and list(b) == ['a', 'b', 'c'] and b[4] == 8 and 'a' in b",
        "assert str(b) == 'Box(5)' and b.other(f(1), by=2) == 3",
        "assert not b == 5 and b != 5 and isinstance(b, int) is False and isinstance(b, f)",
        "assert b == 5",
    )
    found = judged(program, *tests)
    assert (found["passed"], found["why"]) == (4, "assertion failed")


def test_arguments_changed_in_place_are_changed_for_the_test() -> None:
    program = "def f(a, b, c, d): a.append([a[0]]); b.clear(); c.add(9); d[0] = 0; return a"
    test = "a, b, c, d = [1], {1: 2}, {3}, bytearray(b'x')\nr = f(a, b, c, d)\n"
    queue = "from collections import deque\nq = deque([1])\nf(q)\nassert q == deque([1, 2])"
    assert judged("def f(q): q.append(2)", queue)["passed"] == 1
    test += "assert (r, a, b, c, d) == ([1, [1]], [1, [1]], {}, {3, 9}, b'\\0')"
    assert judged(program, test)["passed"] == 1


def test_containers_with_methods_stay_objects_and_named_tuples_do_not() -> None:
    program = """
import enum
from collections import Counter
from typing import NamedTuple
class Pair(NamedTuple):
    a: int
    b: int
class Stack(list):
    push = list.append
class Colour(enum.IntEnum): RED = 3
KINDS = {'pair': Pair(1, 2), 'stack': Stack([1]), 'colour': Colour.RED, 'counter': Counter('aab')}
def f(kind): return KINDS[kind]
"""
    tests = ("assert f('pair') == (1, 2)", "assert f('colour') == 3", "assert f('counter')['a'] == 2",
             "s = f('stack')\ns.push(7)\nassert s[1] == 7 and s.pop() == 7 and s != [1]")  # fmt: skip
    assert judged(program, *tests)["passed"] == 4


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b'["value", 4, []]',  # without an end: the program has died while writing
        b"garbage\n",
        b"[]\n",
        b'["value", ["object", 3], [], []]\n',
        b'["value", ["dict", [[["list", []], 1]]], []]\n',
        b'["error", "SystemExit", "x"]\n',
        b'["error", ["list"], "x"]\n',
        b'["value", ["int", "99z"], []]\n',
        b'["value", ' + b"[" * 10**5 + b"\n",
    ],
)
def test_no_reply_passes_a_test_that_it_does_not_answer(reply: bytes) -> None:
    found = judge(["assert f(2) == 4"], ["f"], link := Link(lambda request: reply))
    assert found["passed"] == 0
    assert found["why"]
    assert found["ended"] == link.ended == (not reply.endswith(b"\n"))


@pytest.mark.parametrize(
    ("program", "test", "why"),
    [
        ("def f(x): return '\\0' * 10**6", "{}[f(2)]", "KeyError"),
        ("def f(x): raise ValueError('\\U0001f600' * 10**6)", "f(2)", "ValueError"),
        ("def f(x): return 2", "f(type('x' * 10**6, (), {})())", "TypeError"),
    ],
)
def test_a_verdict_is_short_whatever_it_quotes(program: str, test: str, why: str) -> None:
    found = judged(program, test)
    assert found["why"].startswith(why)
    assert len(json.dumps(found)) < select.PIPE_BUF


def test_a_forged_error_is_short_for_the_test_as_well() -> None:
    test = "try:\n    f(2)\nexcept ValueError as error:\n    assert len(str(error)) == 200\n"
    replies = iter([b'["value", ["object", 0], []]\n', b'["error", "ValueError", "%s"]\n' % (b"x" * 10**6)])
    assert judge([test], ["f"], Link(lambda request: next(replies)))["passed"] == 1


def test_a_test_that_catches_everything_does_not_hide_the_end_of_the_program() -> None:
    replies = iter([b'["value", ["object", 0], []]\n', b""])
    link = Link(lambda request: next(replies))
    found = judge(["try:\n    f(2)\nexcept BaseException:\n    pass"], ["f"], link)
    assert (found["passed"], found["ended"]) == (0, True)


def test_what_cannot_be_sent_is_said() -> None:
    found = judged("def f(g): return g(1)", "try:\n    f(abs)\nexcept Exception:\n    pass")
    assert (
        found["unsupported"] == "a test hands the program a builtin_function_or_method, which cannot be sent"
    )
    assert isinstance(link_to("def f(): return 1").ask("name", "f"), Remote)


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("class Solution:\n    def f(self, x: List[int]) -> Optional[int]: return max(x)", 3),
        ("def f(x): return Counter(x)[3] + len(deque(x)) - heappop(x)", 3),
        (
            "def f(x):\n    @cache\n    def g(i): return i and i + g(i - 1)\n    return g(3) // gcd(2, 4)",
            3,
        ),
        ("def f(x): return collections.Counter(x)[3] + bisect_left(x, 3) + math.floor(pi) - 3", 3),
        ("def f(x): return int(pow(3, -1, 7) == 5) + bisect.bisect([1, 2, 4], 3)", 3),
        ("def f(x): return accumulate(x)\ndef accumulate(x): return 3", 3),
        ("from math import *\ndef gcd(a, b): return 3\ndef f(x): return gcd(0, 0)", 3),
        ("class Solution:\n    def merge(self, x): return max(x)\ndef f(x): return Solution().merge(x)", 3),
        ("def f(x): return listen(x)", None),
        ("def f(x): return os.listdir('.')", None),
    ],
)
def test_functions_have_what_their_judges_offer(program: str, wanted: object) -> None:
    found = judged(program, f"assert f([1, 2, 3]) == {wanted}")
    assert found["why"].partition(":")[0] == ("" if wanted else "NameError")


@pytest.mark.parametrize(
    ("program", "test", "passed"),
    [
        ("class Solution:\n    def merge(self, xs): return sorted(xs)", "assert merge([2, 1]) == [1, 2]", 1),
        ("from heapq import *\ndef merge(xs): return sorted(xs)", "assert merge([2, 1]) == [1, 2]", 1),
        ("from math import gcd", "assert gcd(12, 8) == 4", 1),
        ("gcd", "assert gcd(12, 8) == 4", 0),
        ("s = set()\ns.add(1)", "assert add(2, 3) == 5", 0),
    ],
)
def test_what_judges_offer_is_not_what_a_program_defines(program: str, test: str, passed: int) -> None:
    found = judged(program, test, names=(test.split()[1].partition("(")[0],))
    assert found["passed"] == passed
    assert passed or found["why"].startswith("NameError")
