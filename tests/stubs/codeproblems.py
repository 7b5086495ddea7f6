"""Twenty programming tasks, each with five right and five wrong programs, written for the tests."""

from typing import NamedTuple


class Problem(NamedTuple):
    """A task: its tests as `CodeReward` reads them, and programs by what they are."""

    tests: dict[str, list[str]]
    right: list[str]
    wrong: list[str]


def printed(*pairs: tuple[str, str]) -> dict[str, list[str]]:
    """Tests of what is printed for what is read."""
    return {"inputs": [given for given, _ in pairs], "outputs": [wanted for _, wanted in pairs]}


def asserted(*tests: str) -> dict[str, list[str]]:
    """Tests of functions."""
    return {"asserts": list(tests)}


PROBLEMS = {
    "sum of a line": Problem(
        printed(("1 2\n", "3\n"), ("-5 5 7\n", "7\n")),
        [
            "print(sum(map(int, input().split())))",
            "import sys\nprint(sum(int(x) for x in sys.stdin.read().split()))",
            "def main():\n    t = 0\n    for x in input().split():\n        t += int(x)\n    print(t)\n"
            "if __name__ == '__main__':\n    main()",
            "from functools import reduce\nprint(reduce(lambda a, b: a + b, [int(x) for x in input().split()]))",
            "print(eval('+'.join(input().split())))",
        ],
        [
            "print(3)",
            "a, b, *_ = map(int, input().split())\nprint(a + b)",
            "print(sum(map(abs, map(int, input().split()))))",
            "print('Sum:', sum(map(int, input().split())))",
            "print(sum(map(int, input())))",
        ],
    ),
    "reverse": Problem(
        printed(("hello\n", "olleh"), ("naïve café\n", "éfac evïan")),
        [
            "print(input()[::-1])",
            "print(''.join(reversed(input())))",
            "s = list(input()); s.reverse(); print(*s, sep='')",
            "from collections import deque\nd = deque()\nfor c in input(): d.appendleft(c)\nprint(''.join(d))",
            "s = open(0).read().rstrip('\\n')\nprint(''.join(s[i] for i in range(len(s) - 1, -1, -1)))",
        ],
        [
            "print(input())",
            "print(input()[:0:-1])",
            "print(' '.join(input().split()[::-1]))",
            "print(*reversed(input()))",
            "print(input().encode()[::-1].decode('latin-1'))",
        ],
    ),
    "triangle of stars": Problem(
        printed(("3\n", "*\n**\n***\n"), ("1\n", "*\n")),
        [
            "for i in range(int(input())): print('*' * (i + 1))",
            "n = int(input())\nprint('\\n'.join('*' * i for i in range(1, n + 1)))",
            "n = int(input())\ni = 1\nwhile i <= n:\n    print('*' * i + '   ')\n    i += 1",
            "def f(n):\n    if n:\n        f(n - 1)\n        print(n * '*')\nf(int(input()))",
            "import sys\n[sys.stdout.write('*' * i + '\\n') for i in range(1, int(sys.stdin.readline()) + 1)]",
        ],
        [
            "for i in range(int(input())): print('*' * i)",
            "for i in range(int(input()), 0, -1): print('*' * i)",
            "n = int(input())\nfor i in range(n): print('*' * n)",
            "n = int(input())\nfor i in range(n): print(('*' * (i + 1)).rjust(n))",
            "n = int(input())\nprint(' '.join('*' * i for i in range(1, n + 1)))",
        ],
    ),
    "primes up to n": Problem(
        printed(("10\n", "2 3 5 7\n"), ("2\n", "2\n")),
        [
            "n = int(input())\nprint(*[p for p in range(2, n + 1) if all(p % d for d in range(2, p))])",
            "n = int(input())\ns = [1] * (n + 1)\nout = []\nfor p in range(2, n + 1):\n    if s[p]:\n"
            "        out.append(p)\n        for m in range(p * p, n + 1, p): s[m] = 0\nprint(*out)",
            "import math\nprint(*(p for p in range(2, int(input()) + 1)"
            " if not any(p % d == 0 for d in range(2, math.isqrt(p) + 1))))",
            "import itertools\nn = int(input())\nps = []\nfor k in itertools.count(2):\n    if k > n: break\n"
            "    if all(k % p for p in ps): ps.append(k)\nprint(' '.join(map(str, ps)))",
            "n = int(input())\nc = {a * b for a in range(2, n) for b in range(2, n)}\n"
            "print(*sorted(set(range(2, n + 1)) - c))",
        ],
        [
            "n = int(input())\nprint(*[p for p in range(1, n + 1) if all(p % d for d in range(2, p))])",
            "n = int(input())\nprint(*[p for p in range(2, n) if all(p % d for d in range(2, p))])",
            "print('2 3 5 7')",
            "n = int(input())\nprint(*[p for p in range(2, n + 1) if p % 2 or p == 2])",
            "n = int(input())\nprint([p for p in range(2, n + 1) if all(p % d for d in range(2, p))])",
        ],
    ),
    "word counts": Problem(
        printed(("b a b\n", "a 1\nb 2\n"), ("x\n", "x 1\n")),
        [
            "from collections import Counter\nfor w, n in sorted(Counter(input().split()).items()): print(w, n)",
            "w = input().split()\nfor x in sorted(set(w)): print(x, w.count(x))",
            "d = {}\nfor w in input().split(): d[w] = d.get(w, 0) + 1\nfor k in sorted(d): print(f'{k} {d[k]}')",
            "import itertools\nfor k, g in itertools.groupby(sorted(input().split())): print(k, len(list(g)))",
            "from collections import defaultdict\nd = defaultdict(int)\nfor w in input().split(): d[w] += 1\n"
            "print('\\n'.join(f'{k} {v}' for k, v in sorted(d.items())))",
        ],
        [
            "from collections import Counter\nfor w, n in Counter(input().split()).items(): print(w, n)",
            "for w in sorted(input().split()): print(w, 1)",
            "w = input().split()\nfor x in sorted(set(w)): print(w.count(x), x)",
            "w = input()\nfor x in sorted(set(w)): print(x, w.count(x))",
            "d = {}\nfor w in input().split(): d[w] += 1\nfor k in sorted(d): print(k, d[k])",
        ],
    ),
    "large factorial": Problem(
        printed(("5\n", "120\n"), ("30\n", "265252859812191058636308480000000\n")),
        [
            "import math\nprint(math.factorial(int(input())))",
            "f = lambda n: 1 if n < 2 else n * f(n - 1)\nprint(f(int(input())))",
            "r = 1\nfor i in range(1, int(input()) + 1): r *= i\nprint(r)",
            "import operator, functools\nprint(functools.reduce(operator.mul, range(1, int(input()) + 1), 1))",
            "import math\nprint(math.prod(range(1, int(input()) + 1)))",
        ],
        [
            "import math\nprint(int(math.gamma(int(input()) + 1)))",
            "r = 1\nfor i in range(1, int(input())): r *= i\nprint(r)",
            "r = 1\nfor i in range(1, int(input()) + 1): r = r * i % (1 << 64)\nprint(r)",
            "print(sum(range(int(input()) + 1)))",
            "f = lambda n: n * f(n - 1)\nprint(f(int(input())))",
        ],
    ),
    "balanced brackets": Problem(
        printed(("([]{})\n", "yes"), ("([)]\n", "no"), ("((\n", "no")),
        [
            "s = input()\nwhile any(p in s for p in ('()', '[]', '{}')):\n"
            "    for p in ('()', '[]', '{}'): s = s.replace(p, '')\nprint('no' if s else 'yes')",
            "st = []\nok = True\nfor c in input():\n    if c in '([{': st.append(c)\n"
            "    elif not st or '([{'.index(st.pop()) != ')]}'.index(c): ok = False; break\n"
            "print('yes' if ok and not st else 'no')",
            "import re\ns = input()\nn = 1\nwhile n: s, n = re.subn(r'\\(\\)|\\[\\]|\\{\\}', '', s)\n"
            "print(['yes', 'no'][bool(s)])",
            "def p(s, i):\n    while i < len(s) and s[i] in '([{':\n        j = p(s, i + 1)\n"
            "        if j >= len(s) or s[j] != dict(zip('([{', ')]}'))[s[i]]: return len(s) + 1\n        i = j + 1\n"
            "    return i\ns = input()\nprint('yes' if p(s, 0) == len(s) else 'no')",
            "m = {')': '(', ']': '[', '}': '{'}\nst = ['#']\nfor c in input():\n"
            "    if c in m and st[-1] == m[c]: st.pop()\n    else: st.append(c)\n"
            "print('yes' if len(st) == 1 else 'no')",
        ],
        [
            "s = input()\nprint('yes' if all(s.count(a) == s.count(b) for a, b in ('()', '[]', '{}')) else 'no')",
            "print('yes')",
            "print('no')",
            "s = input()\nprint('yes' if len(s) % 2 == 0 else 'no')",
            "st = []\nfor c in input():\n    if c in '([{': st.append(c)\n"
            "    elif '([{'.index(st.pop()) != ')]}'.index(c): print('no'); break\nelse: print('yes')",
        ],
    ),
    "mean to two places": Problem(
        printed(("3\n1 2 4\n", "2.33\n"), ("2\n-1 1\n", "0.00\n")),
        [
            "n = int(input())\nprint(f'{sum(map(int, input().split())) / n:.2f}')",
            "input()\nx = [float(v) for v in input().split()]\nprint('%.2f' % (sum(x) / len(x)))",
            "import statistics\ninput()\nprint('{:.2f}'.format(statistics.mean(map(int, input().split()))))",
            "import sys\nn, *x = map(int, sys.stdin.read().split())\nprint(format(sum(x) / n, '.2f'))",
            "from decimal import Decimal\nn = int(input())\n"
            "print((sum(map(Decimal, input().split())) / n).quantize(Decimal('0.01')))",
        ],
        [
            "n = int(input())\nprint(sum(map(int, input().split())) / n)",
            "n = int(input())\nprint(sum(map(int, input().split())) // n)",
            "n = int(input())\nprint(round(sum(map(int, input().split())) / n, 2))",
            "x = list(map(int, input().split()))\nprint(f'{sum(x) / len(x):.2f}')",
            "n = int(input())\nprint(f'{sum(map(int, input().split())) / n:.1f}')",
        ],
    ),
    "shortest way": Problem(
        printed(("4 4\n1 2\n2 3\n3 4\n1 3\n", "2\n"), ("3 1\n1 2\n", "-1\n")),
        [
            "from collections import deque\nn, m = map(int, input().split())\ng = {i: [] for i in range(1, n + 1)}\n"
            "for _ in range(m):\n    a, b = map(int, input().split())\n    g[a].append(b); g[b].append(a)\n"
            "d = {1: 0}\nq = deque([1])\nwhile q:\n    u = q.popleft()\n    for v in g[u]:\n"
            "        if v not in d: d[v] = d[u] + 1; q.append(v)\nprint(d.get(n, -1))",
            "import heapq, sys\nn, m, *e = map(int, sys.stdin.read().split())\nE = list(zip(e[::2], e[1::2]))\n"
            "h = [(0, 1)]\ns = set()\nr = -1\nwhile h:\n    k, u = heapq.heappop(h)\n    if u in s: continue\n"
            "    s.add(u)\n    if u == n: r = k; break\n    for a, b in E:\n"
            "        if u in (a, b): heapq.heappush(h, (k + 1, a + b - u))\nprint(r)",
            "n, m = map(int, input().split())\nE = [tuple(map(int, input().split())) for _ in range(m)]\n"
            "f = {1}\nk = 0\nwhile n not in f and k <= n:\n"
            "    f |= {b for a, b in E if a in f} | {a for a, b in E if b in f}\n    k += 1\n"
            "print(k if n in f else -1)",
            "n, m = map(int, input().split())\nI = 10**9\nd = [[I] * n for _ in range(n)]\nfor i in range(n): d[i][i] = 0\n"
            "for _ in range(m):\n    a, b = map(int, input().split()); d[a-1][b-1] = d[b-1][a-1] = 1\n"
            "for k in range(n):\n    for i in range(n):\n        for j in range(n):\n"
            "            d[i][j] = min(d[i][j], d[i][k] + d[k][j])\nprint(d[0][-1] if d[0][-1] < I else -1)",
            "n, m = map(int, input().split())\nE = [tuple(map(int, input().split())) for _ in range(m)]\n"
            "d = [0 if i == 1 else 10**9 for i in range(n + 1)]\nfor _ in range(n):\n    for a, b in E:\n"
            "        d[a] = min(d[a], d[b] + 1); d[b] = min(d[b], d[a] + 1)\nprint(d[n] if d[n] < 10**9 else -1)",
        ],
        [
            "n, m = map(int, input().split())\nprint(n - 1 if m >= n - 1 else -1)",
            "print(2)",
            "n, m = map(int, input().split())\ng = {}\nfor _ in range(m):\n    a, b = map(int, input().split())\n"
            "    g[a] = b\nu, k = 1, 0\nwhile u != n: u = g[u]; k += 1\nprint(k)",
            "n, m = map(int, input().split())\nprint(m - n)",
            "from collections import deque\nn, m = map(int, input().split())\nq = deque([(1, 0)])\n"
            "while q: u, k = q.pop()\nprint(k)",
        ],
    ),
    "roman numerals": Problem(
        printed(("1994\n", "MCMXCIV\n"), ("9\n", "IX\n")),
        [
            "n = int(input())\nfor v, s in zip((1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1),"
            " 'M CM D CD C XC L XL X IX V IV I'.split()):\n    while n >= v: print(s, end=''); n -= v\nprint()",
            "n = int(input())\nT = ['', 'I', 'II', 'III', 'IV', 'V', 'VI', 'VII', 'VIII', 'IX']\n"
            "t = lambda s, k: s.translate(str.maketrans('IVX', k))\n"
            "print('M' * (n // 1000) + t(T[n // 100 % 10], 'CDM') + t(T[n // 10 % 10], 'XLC') + T[n % 10])",
            "n = int(input())\ns = 'I' * n\nfor a, b in [('IIIII', 'V'), ('VV', 'X'), ('XXXXX', 'L'), ('LL', 'C'),"
            " ('CCCCC', 'D'), ('DD', 'M'), ('DCCCC', 'CM'), ('CCCC', 'CD'), ('LXXXX', 'XC'), ('XXXX', 'XL'),"
            " ('VIIII', 'IX'), ('IIII', 'IV')]: s = s.replace(a, b)\nprint(s)",
            "R = {1000: 'M', 900: 'CM', 500: 'D', 400: 'CD', 100: 'C', 90: 'XC', 50: 'L', 40: 'XL', 10: 'X', 9: 'IX',"
            " 5: 'V', 4: 'IV', 1: 'I'}\ndef f(n):\n    for v in R:\n        if n >= v: return R[v] + f(n - v)\n"
            "    return ''\nprint(f(int(input())))",
            "n = int(input())\nout = ''\nfor v, s in [(1000, 'M'), (900, 'CM'), (500, 'D'), (400, 'CD'), (100, 'C'),"
            " (90, 'XC'), (50, 'L'), (40, 'XL'), (10, 'X'), (9, 'IX'), (5, 'V'), (4, 'IV'), (1, 'I')]:\n"
            "    k, n = divmod(n, v)\n    out += s * k\nprint(out)",
        ],
        [
            "n = int(input())\nfor v, s in zip((1000, 500, 100, 50, 10, 5, 1), 'MDCLXVI'):\n"
            "    print(s * (n // v), end=''); n %= v",
            "print('MCMXCIV')",
            "n = int(input())\nprint('I' * n)",
            "print(input())",
            "n = int(input())\nprint({1994: 'mcmxciv', 9: 'ix'}[n])",
        ],
    ),
}
