"""Ten of the programming tasks: those whose tests call functions; see `codeproblems`."""

from codeproblems import Problem, asserted

FUNCTION_PROBLEMS = {
    "square": Problem(
        asserted("assert f(2) == 4", "assert f(-3) == 9 and f(0) == 0", "assert f(10**20) == 10**40"),
        [
            "def f(x): return x * x",
            "f = lambda x: x ** 2",
            "def f(x):\n    return sum(abs(x) for _ in range(abs(x))) if abs(x) < 99 else pow(x, 2)",
            "import operator\ndef f(x): return operator.mul(x, x)",
            "class Square:\n    def __call__(self, x): return int(x) * x\nf = Square()",
        ],
        [
            "def f(x): return x + x",
            "def f(x): return abs(x) * x",
            "def f(x): return int(float(x) ** 2)",
            "def f(x): print(x * x)",
            "def square(x): return x * x",
        ],
    ),
    "unique in order": Problem(
        asserted("assert unique([3, 1, 3, 2, 1]) == [3, 1, 2]", "assert unique([]) == []"),
        [
            "def unique(x): return list(dict.fromkeys(x))",
            "def unique(x):\n    out = []\n    for v in x:\n        if v not in out: out.append(v)\n    return out",
            "def unique(x): return [v for i, v in enumerate(x) if v not in x[:i]]",
            "def unique(x):\n    s = set()\n    return [v for v in x if not (v in s or s.add(v))]",
            "def unique(x): return sorted(set(x), key=x.index)",
        ],
        [
            "def unique(x): return sorted(set(x))",
            "def unique(x): return tuple(dict.fromkeys(x))",
            "def unique(x): return x",
            "def unique(x): return dict.fromkeys(x).keys()",
            "def unique(x): return [v for v in x if x.count(v) == 1]",
        ],
    ),
    "sort in place": Problem(
        asserted("x = [3, 1, 2]\nresult = order(x)\nassert x == [1, 2, 3]\nassert result is None"),
        [
            "def order(x): x.sort()",
            "def order(x): x[:] = sorted(x)",
            "def order(x):\n    for i in range(len(x)):\n        for j in range(i):\n"
            "            if x[j] > x[i]: x[i], x[j] = x[j], x[i]",
            "import bisect\ndef order(x):\n    y = []\n    for v in x: bisect.insort(y, v)\n    x.clear(); x.extend(y)",
            "import heapq\ndef order(x):\n    h = list(x); heapq.heapify(h)\n"
            "    for i in range(len(x)): x[i] = heapq.heappop(h)",
        ],
        [
            "def order(x): return sorted(x)",
            "def order(x): x = sorted(x)",
            "def order(x): x.sort(reverse=True)",
            "def order(x): x.sort(); return x",
            "def order(x): x[0], x[1] = x[1], x[0]",
        ],
    ),
    "stack": Problem(
        asserted(
            "s = Stack()\ns.push(1)\ns.push('two')\nassert len(s) == 2\nassert s.pop() == 'two' and s.pop() == 1",
            "try:\n    s.pop()\nexcept IndexError:\n    pass\nelse:\n    assert False, 'nothing to pop'",
        ),
        [
            "class Stack:\n    def __init__(self): self.x = []\n    def push(self, v): self.x.append(v)\n"
            "    def pop(self): return self.x.pop()\n    def __len__(self): return len(self.x)",
            "class Stack(list):\n    push = list.append",
            "from collections import deque\nclass Stack(deque):\n    def push(self, v): self.append(v)",
            "class Stack:\n    def __init__(self): self.top, self.n = None, 0\n"
            "    def push(self, v): self.top, self.n = (v, self.top), self.n + 1\n    def pop(self):\n"
            "        if not self.top: raise IndexError('empty')\n"
            "        v, self.top = self.top; self.n -= 1; return v\n    def __len__(self): return self.n",
            "from dataclasses import dataclass, field\n@dataclass\nclass Stack:\n    x: list = field(default_factory=list)\n"
            "    def push(self, v): self.x = [*self.x, v]\n    def pop(self): *self.x, v = self.x or [][0]; return v\n"
            "    def __len__(self): return len(self.x)",
        ],
        [
            "class Stack:\n    def __init__(self): self.x = []\n    def push(self, v): self.x.append(v)\n"
            "    def pop(self): return self.x.pop(0)\n    def __len__(self): return len(self.x)",
            "class Stack:\n    x = []\n    def push(self, v): self.x.append(v)\n"
            "    def pop(self): return self.x.pop() if self.x else None\n    def __len__(self): return len(self.x)",
            "class Stack:\n    def __init__(self): self.x = []\n    def push(self, v): self.x.append(v)\n"
            "    def pop(self): return self.x.pop()",
            "class Stack(set):\n    push = set.add",
            "class stack(list):\n    push = list.append",
        ],
    ),
    "square root": Problem(
        asserted("import math", "assert math.isclose(root(2), 1.41421356, rel_tol=1e-6)", "assert abs(root(0)) < 1e-6"),
        [
            "def root(x): return x ** 0.5",
            "import math\nroot = math.sqrt",
            "def root(x):\n    r = x or 0\n    for _ in range(60):\n        if r: r = (r + x / r) / 2\n    return r",
            "def root(x):\n    a, b = 0.0, max(x, 1.0)\n    for _ in range(80):\n        m = (a + b) / 2\n"
            "        a, b = (m, b) if m * m <= x else (a, m)\n    return a",
            "import cmath\ndef root(x): return cmath.sqrt(x).real",
        ],
        [
            "def root(x): return x / 2",
            "import math\nroot = math.isqrt",
            "def root(x): return 1.4142",
            "def root(x): return str(x ** 0.5)",
            "def root(x): return -(x ** 0.5)",
        ],
    ),
    "word lengths": Problem(
        asserted("assert lengths('a bcd') == {'a': 1, 'bcd': 3}", "assert lengths('') == {}"),
        [
            "def lengths(s): return {w: len(w) for w in s.split()}",
            "def lengths(s): return dict(zip(s.split(), map(len, s.split())))",
            "def lengths(s):\n    d = {}\n    for w in s.split(): d[w] = len(w)\n    return d",
            "from collections import OrderedDict\ndef lengths(s): return OrderedDict((w, len(w)) for w in s.split())",
            "import re\ndef lengths(s): return {w: len(w) for w in re.findall(r'\\w+', s)}",
        ],
        [
            "def lengths(s): return {w: len(w) for w in s.split(' ')}",
            "def lengths(s): return [len(w) for w in s.split()]",
            "def lengths(s): return {len(w): w for w in s.split()}",
            "def lengths(s): return {w: str(len(w)) for w in s.split()}",
            "def lengths(s): return {c: 1 for c in s}",
        ],
    ),
    "sum, by a built-in's name": Problem(
        asserted("assert sum(1, 2) == 3", "assert sum(-1, 1) == 0") | {"names": ["sum"]},
        [
            "def sum(a, b): return a + b",
            "sum = lambda a, b: a - -b",
            "from operator import add as sum",
            "def sum(*x):\n    import builtins\n    return builtins.sum(x)",
            "import functools\nsum = functools.partial(lambda z, a, b: z + a + b, 0)",
        ],
        [
            "def add(a, b): return a + b",
            "def sum(x): return x",
            "def sum(a, b): return max(a, b) + 1",
            "def sum(a, b): return f'{a + b}'",
            "def sum(a, b): yield a + b",
        ],
    ),
    "fibonacci generator": Problem(
        asserted("assert list(fib(6)) == [0, 1, 1, 2, 3, 5]", "assert not list(fib(0))"),
        [
            "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        yield a\n        a, b = b, a + b",
            "def fib(n):\n    x = [0, 1]\n    while len(x) < n: x.append(x[-1] + x[-2])\n    return x[:n]",
            "from functools import cache\n@cache\ndef g(i): return i if i < 2 else g(i - 1) + g(i - 2)\n"
            "def fib(n): return map(g, range(n))",
            "import itertools\ndef all_():\n    a, b = 0, 1\n    while True: yield a; a, b = b, a + b\n"
            "def fib(n): return itertools.islice(all_(), n)",
            "class fib:\n    def __init__(self, n): self.n, self.a, self.b = n, 0, 1\n    def __iter__(self): return self\n"
            "    def __next__(self):\n        if not self.n: raise StopIteration\n"
            "        r = self.a; self.n -= 1; self.a, self.b = self.b, r + self.b; return r",
        ],
        [
            "def fib(n):\n    a, b = 1, 1\n    for _ in range(n):\n        yield a\n        a, b = b, a + b",
            "def fib(n):\n    a, b = 0, 1\n    for _ in range(n + 1):\n        yield a\n        a, b = b, a + b",
            "def fib(n):\n    a, b = 0, 1\n    while True:\n        yield a\n        a, b = b, a + b",
            "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)",
            "def fib(n): return '011235'[:n]",
        ],
    ),
    "grid paths": Problem(
        asserted("def check(g):\n    for n, want in ((1, 2), (2, 6), (17, 2333606220)):\n        assert g(n) == want", "check(paths)"),
        [
            "import math\ndef paths(n): return math.comb(2 * n, n)",
            "def paths(n):\n    row = [1] * (n + 1)\n    for _ in range(n):\n"
            "        for j in range(1, n + 1): row[j] += row[j - 1]\n    return row[-1]",
            "from functools import lru_cache\n@lru_cache(None)\ndef w(a, b): return 1 if 0 in (a, b) else w(a-1, b) + w(a, b-1)\n"
            "def paths(n): return w(n, n)",
            "def paths(n):\n    r = 1\n    for i in range(1, n + 1): r = r * (n + i) // i\n    return r",
            "from math import factorial as f\ndef paths(n): return f(2 * n) // f(n) ** 2",
        ],
        [
            "def paths(n): return 2 ** n if n == 1 else 6",
            "def paths(n): return 1 if n == 0 else 2 * paths(n - 1)",
            "import math\ndef paths(n): return math.comb(2 * n, n - 1)",
            "def paths(n):\n    def w(a, b): return 1 if 0 in (a, b) else w(a-1, b) + w(a, b-1)\n    return w(n, n)",
            "from math import factorial as f\ndef paths(n): return f(2 * n) / f(n) ** 2 + (n > 9)",
        ],
    ),
    "keyword and bytes": Problem(
        asserted("assert pack('hi', end=b'!') == (b'hi!', {2, 1j})", "assert pack(target='é') == (b'\\xc3\\xa9', {1, 1j})"),
        [
            "def pack(target, end=b''): return target.encode() + end, {len(target), 1j}",
            "def pack(target, *, end=b''): return bytes(target, 'utf-8') + end, frozenset([len(target), complex(0, 1)])",
            "def pack(target, **k): return b''.join((target.encode(), k.get('end', b''))), {len(target)} | {1j}",
            "from typing import NamedTuple\nclass R(NamedTuple):\n    a: bytes\n    b: set\n"
            "def pack(target, end=b''): return R(target.encode() + end, {1j, len(target)})",
            "def pack(target, end=b''):\n    b = bytearray(target.encode()); b += end\n    return bytes(b), {len(target), 1j}",
        ],
        [
            "def pack(target, end=b''): return target + end.decode(), {len(target), 1j}",
            "def pack(target, end=b''): return [target.encode() + end, {len(target), 1j}]",
            "def pack(target, end=b''): return target.encode('latin-1') + end, {len(target), 1j}",
            "def pack(target): return target.encode(), {len(target), 1j}",
            "def pack(target, end=b''): return target.encode() + end, [len(target), 1j]",
        ],
    ),
}
