"""What objects of a program may be asked, and what of it is data."""

import json

import pytest
from judged import judged

from katlit.rewards.code import code_tests
from katlit.rewards.code.assertions import judge
from katlit.rewards.code.remote import Link

AGREES = """
class Agrees:
    def __call__(self, *a, **k): return self
    def __getattr__(self, name): return lambda *a, **k: True
    def __setattr__(self, name, value): pass
    def __iter__(self): return iter([7])
    def __next__(self): return 7
    def __len__(self): return 1
    def __getitem__(self, key): return self
    def __hash__(self): return 7
    def __str__(self): return "7"
for name in "contains eq ne lt le gt ge bool add radd sub rsub abs instancecheck".split():
    setattr(Agrees, f"__{name}__", lambda *a: True)
agrees = Agrees()
"""
ALWAYS = f"{AGREES}def f(x): return agrees\n"
NAMED = f"{AGREES}f = agrees\n"  # the object is what the tests name
STOPS = "def f(x): raise StopIteration"
STOPS_LATER = "class Never(StopIteration): pass\ndef f(x):\n    if x == 1: return 1\n    raise Never"
STOPS_ASYNC = "def f(x): raise StopAsyncIteration"


@pytest.mark.parametrize("program", [ALWAYS, NAMED], ids=["returned", "named"])
@pytest.mark.parametrize(
    "test",
    [
        "assert 4 in f(2)",
        "assert f(2).startswith('a')",
        "assert f(2).isdigit() and not f(2).count(3)",
        "assert f(2) >= 4",
        "assert 4 < f(2)",
        "assert abs(f(2) - 4) < 2",
        "assert f(2) + 3",
        "assert f(2)[0] == 4",
        "assert not f(2)",
        "assert all(x == 4 for x in f(2))",
        "assert set(f(2)) <= {4}",
        "assert isinstance(f(2), int)",
        "import math\nassert math.isclose(f(2), 1.0)",
        "import math\nassert math.floor(4.5) in f(2)",
        "assert f(2) in [4, 5]",
        "assert f(2) in {4: 5}",
    ],
)
def test_an_object_that_agrees_to_everything_is_wrong(program: str, test: str) -> None:
    found = judged(program, test)
    assert (found["passed"], found["unsupported"]) == (0, "")


@pytest.mark.parametrize("program", [STOPS, STOPS_LATER, STOPS_ASYNC])
@pytest.mark.parametrize(
    "test",
    [
        "assert all(map(lambda x: f(x) == x * x, [1, 2]))",
        "for got, x in zip(map(f, [1, 2]), [1, 4]):\n    assert got == x",
        "for got in map(f, [1, 2]):\n    assert got == 1",
        "assert list(map(f, [1, 2]))[:1] == [1][:len(list(map(f, [1, 2])))]",
        "assert next(map(f, [2]), 4) == 4",
        "assert not any(map(f, [2]))",
        "class A:\n    def __iter__(self): return self\n    def __next__(s): return f(2)\nassert not {*A()}",
    ],
)
def test_a_program_cannot_end_the_iteration_of_a_test(program: str, test: str) -> None:
    found = judged(program, test)
    assert (found["passed"], found["why"].partition(":")[0]) == (0, "RuntimeError")


@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration", "GeneratorExit", "list", "nothing"])
def test_nor_can_a_forged_reply(name: str) -> None:
    replies = iter([b'["value", ["object", 0], []]\n', b'["%s", "%s", ""]\n' % (b"error", name.encode())])
    found = judge(["assert all(map(f, [2]))"], ["f"], Link(lambda request: next(replies)))
    assert (found["passed"], found["why"]) == (0, "RuntimeError: ")
    replies = iter([b'["value", ["object", 0], []]\n', b'["stop", "%s", ""]\n' % name.encode()])
    assert judge(["assert all(map(f, [2]))"], ["f"], Link(lambda request: next(replies)))["passed"] == 0


@pytest.mark.parametrize(
    ("result", "test"),
    [
        ("fractions.Fraction(6, 4)", "from fractions import Fraction\nassert f() == Fraction(3, 2) == 1.5"),
        ("range(0, 5, 2)", "assert f() == range(0, 6, 2) != [0, 2, 4] and 4 in f() and f().step == 2"),
        (
            "decimal.Decimal('1.10')",
            "from decimal import Decimal\nassert f() == Decimal('1.1') and str(f()) == '1.10'",
        ),
        (
            "collections.deque([1, 2], 3)",
            "from collections import deque\nassert f() == deque([1, 2]) and f().maxlen == 3",
        ),
        (
            "datetime.date(2024, 2, 29)",
            "import datetime\nassert f() == datetime.date(2024, 2, 29) < datetime.date.max",
        ),
        (
            "datetime.datetime(2024, 2, 29, 1, 2, 3, 4)",
            "import datetime as d\nassert f() == d.datetime(2024, 2, 29, 1, 2, 3, 4)",
        ),
        ("datetime.timedelta(1, 2)", "import datetime\nassert f().total_seconds() == 86402"),
        ("{1: 2}.keys()", "assert f() == {1} and list(f()) == [1]"),
        ("{1: [2]}.items()", "assert f() == {1: [2]}.items() and list(f()) == [(1, [2])]"),
        (
            "[fractions.Fraction(1, 2), range(2)]",
            "from fractions import Fraction\nassert f() == [Fraction('0.5'), range(2)]",
        ),
        ("sum", "assert f() is f() and f() == f() and f()([1, 2]) == 3"),
        ("(x * x for x in itertools.count())", "g = f()\nassert [next(g), next(g), next(g)] == [0, 1, 4]"),
        ("itertools.count()", "import itertools\nassert list(itertools.islice(f(), 3)) == [0, 1, 2]"),
        (
            "iter([1, 2])",
            "assert list(f()) == [1, 2] and 2 in f() and dict(zip(f(), 'ab')) == {1: 'a', 2: 'b'}",
        ),
    ],
)  # fmt: skip
def test_what_the_library_offers_is_data(result: str, test: str) -> None:
    program = f"import collections, datetime, decimal, fractions, itertools\ndef f(): return {result}"
    assert judged(program, test) == {"passed": 1, "why": "", "ended": False, "unsupported": ""}


VECTOR = """
import functools
@functools.total_ordering
class Vector:
    def __init__(self, *x): self.x = x
    def __eq__(self, other): return isinstance(other, Vector) and self.x == other.x
    def __lt__(self, other): return self.x < other.x
    def __hash__(self): return hash(self.x)
    def __add__(self, other): return Vector(*[a + b for a, b in zip(self.x, other.x)])
    def __rmul__(self, by): return Vector(*[by * a for a in self.x])
    def __neg__(self): return -1 * self
    def __bool__(self): return any(self.x)
    def __repr__(self): return f'Vector{self.x}'
    def __contains__(self, a): return a in self.x
    def __setitem__(self, i, a): self.x = (*self.x[:i], a, *self.x[i + 1:])
    def __enter__(self): return self
    def __exit__(self, *_): self.x = ()
    one = None
    def __new__(cls, *x):
        if x: return super().__new__(cls)
        Vector.one = super().__new__(cls) if Vector.one is None else Vector.one
        return Vector.one
"""


@pytest.mark.parametrize(
    "test",
    [
        "assert Vector(1, 2) == Vector(1, 2) and Vector(1) != Vector(2) and Vector(1) in [0, Vector(1)]",
        "assert {Vector(1), Vector(1), Vector(2)} == {Vector(2), Vector(1)}",
        "assert Vector(1, 2) + Vector(3, 4) == 2 * Vector(2, 3) and -Vector(1) < Vector(0) <= Vector(1)",
        "assert Vector(1) and not Vector(0) and repr(Vector(1, 2)) == 'Vector(1, 2)' and 1 in Vector(1, 2)",
        "assert sorted([Vector(2), Vector(1)]) == [Vector(1), Vector(2)]",
        "assert isinstance(Vector(1), Vector) and not isinstance(1, Vector) and issubclass(Vector, Vector)",
        "v = Vector(1, 2)\nv[1] = 5\nassert v.x == (1, 5)\nv.x = [3]\nassert v.x == [3]",
        "with Vector(1) as v:\n    assert v.x == (1,)\nassert v.x == ()",
        "assert Vector() is Vector()",
    ],
)
def test_tests_that_name_a_class_ask_its_objects_all(test: str) -> None:
    assert judged(VECTOR, test, names=("Vector",))["passed"] == 1


def test_two_objects_are_not_compared_for_data() -> None:
    found = judged(
        f"{VECTOR}def f(x): return Vector(x)", "try:\n    assert f(2) == f(2)\nexcept Exception: pass"
    )
    assert found["unsupported"] == "a test compares two objects of the program, which only it can"


def test_an_object_of_several_attributes_answers_for_the_usual_ones_as_well() -> None:
    stack = "class S:\n    def __init__(self): self.x = []\n    def push(self, x): self.x.append(x)\n"
    stack += "    def pop(self): return self.x.pop()\ndef make(): return S()"
    assert judged(stack, "s = make()\ns.push(3)\nassert s.pop() == 3", names=("make",))["passed"] == 1


def test_a_function_may_be_a_method_of_solution() -> None:
    program = (
        "class Solution:\n    n = 0\n    def f(self, x):\n        self.n += 1\n        return self.n + x"
    )
    assert judged(program, "assert f(3) == 4 and f(x=3) == 4")["passed"] == 1


KNOWS = """
class Knows:
    def __contains__(self, item): return True
    def __sub__(self, other): self.off = 0; return self
    def __rsub__(self, other): return 0
    def __mod__(self, other): return 0
    def __abs__(self): return self if hasattr(self, "off") else 0
    __abs__, __float__, __round__, __int__ = __abs__, lambda s: 0.0, lambda s, n=0: 0, lambda s: 0
    __bool__ = lambda self: not hasattr(self, "off")
    def __mul__(self, other): return self if isinstance(other, int) else 0
for name in "lt le gt ge".split():
    setattr(Knows, f"__{name}__", lambda *a: True)
class Solution:
    def f(self, x): return Knows()
class Node(Solution): pass
"""


@pytest.mark.parametrize("name", ["Solution", "Node"])
@pytest.mark.parametrize(
    "test",
    [
        "assert abs({}().f(2) - 4) < 1e-6",
        "assert abs(4 - {}().f(2)) < 1e-6",
        "assert 4 in {}().f(2)",
        "assert {}().f(2) >= 4",
        "assert 4 <= {}().f(2)",
        "assert -1e-6 < {}().f(2) - 4 < 1e-6",
        "assert round({}().f(2) - 4, 6) == 0",
        "assert float({}().f(2) - 4) == int({}().f(2) - 4)",
        "import math\nassert math.fabs({}().f(2) - 4) < 1e-6",
        "assert not {}().f(2) - 4",
        "assert {}().f(2) % 4 == 0",
        "d = {}().f(2) - 4\nassert d * d < 1e-6",
    ],
)
def test_an_object_is_not_near_to_data_where_objects_are_asked(name: str, test: str) -> None:
    found = judged(KNOWS, test.replace("{}", name), names=(name,))
    assert (found["passed"], found["unsupported"]) == (0, "")


@pytest.mark.parametrize(
    ("test", "names", "objects"),
    [
        ("import random\nrng = random.Random(1)\nassert f(2) == rng.randint(1, 9)", "f", False),
        ("from datetime import datetime\nassert f(2) == datetime.now()", "f", False),
        ("from collections import Counter\nassert f(2) == Counter('a').most_common(1)", "f", False),
        ("def check(g):\n    import math\n    assert math.fabs(g(2)) < 1\ncheck(f)", "f", False),
        ("assert Find_Max([1]) == 1", "Find_Max", False),
        ("assert Solution().f(2) == 4", "Solution", False),
        ("s = Solution()\nassert s.f(2) == 4 and s.f(3).split()", "Solution", False),
        ("def check(s):\n    assert s.f(2) == 4\ncheck(Solution())", "Solution", False),
        ("assert Solution().f(2).next", "Solution", True),
        ("s = Solution()\nassert s.f(2).next", "Solution", True),
        ("assert f(2).next.value", "f", True),
        ("n = f(2)\nwhile n: n = n.next", "f", True),
        ("a, b = f(2), 3\nassert a.next", "f", True),
        ("assert all(n.value for n in f(2))", "f", True),
        ("for n in f(2):\n    assert n.value", "f", True),
        ("def check(g):\n    assert g(2).next\ncheck(f)", "f", True),
        ("assert Node(2) == Node(2)", "Node", True),
    ],
)
def test_what_tests_are_about(test: str, names: str, *, objects: bool) -> None:
    form = {"asserts": [test], "names": [names]}
    read = code_tests.tests_of({"id": "p", "reference": json.dumps(form), "verifier": "code"})
    assert isinstance(read, code_tests.AssertTests)
    assert read.objects is objects


@pytest.mark.parametrize("name", ["insert", "partition", "count"])
def test_a_method_of_solution_may_have_a_name_that_data_have(name: str) -> None:
    program = f"class Solution:\n    def {name}(self, x): return x * x"
    assert judged(program, f"assert Solution().{name}(2) == 4", names=("Solution",))["passed"] == 1
