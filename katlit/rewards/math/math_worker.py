"""Compares mathematical expressions: a program that `katlit.rewards.math.workers` starts and kills.

Reads a request a line from standard input and writes a reply a line to standard output, both JSON. It imports
nothing of katlit, so it starts in a moment. Requests hold what a model wrote: math-verify is only asked for
its grammar of LaTeX (its other one, of plain expressions, is Python's `eval`). That still has sympy's parser
evaluate the text of each number; a hook of the interpreter forbids it any text that names more than numbers.
"""

import inspect
import json
import logging
import math
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from types import CodeType
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import (
    Add,
    Basic,
    Eq,
    Expr,
    Float,
    I,
    Mul,
    Pow,
    Rational,
    UnevaluatedExpr,
    factorial,
    preorder_traversal,
)  # fmt: skip
from sympy.parsing import sympy_parser

OUTSIDE = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "socket.connect"}
NUMBERS = {"Integer", "Float", "Rational", "sympy"}  # sympy: as in `from sympy import *`
# Units are read before: math-verify would take the last letter of "3t" for one.
NORMAL = replace(LatexExtractionConfig().normalization_config, units=False)
LATEX = [LatexExtractionConfig(boxed_match_priority=-1, normalization_config=NORMAL)]
PERCENT = UnevaluatedExpr(Rational(1, 100))
DIGITS = 60  # that constants are computed to
EXACT = Rational(1, 10**40)  # relative: nearer constants are equal
ROUNDED = Rational(1, 10**6)  # the same, where a decimal is part of one
WRITTEN = 100_000  # most digits of a number that is written out: sympy would take hours for 9^(9^9)
# The digits of what is made of parts with some digits each.
BOUNDS: dict[type, Callable[[list[float]], float]] = {
    Add: lambda parts: max(parts) + math.log10(len(parts)),
    Mul: sum,
    Pow: lambda parts: parts[0] * 10 ** min(parts[1], 300),
    factorial: lambda parts: parts[0] * 10 ** min(parts[0], 300),  # n! < n^n
}


class UnreadableReferenceError(Exception):
    """The reference is nothing that math-verify reads."""


class TooLongError(Exception):
    """Two numbers are too long to be written out, and are not written in the same way."""


def forbid_evaluation(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what leads out of the process, and to sympy's parser all but numbers; a hook of `sys`."""
    if event == "exec":
        caller = inspect.currentframe().f_back  # type: ignore[union-attr]
        if caller and caller.f_code.co_filename == sympy_parser.__file__ and not is_number(arguments[0]):
            raise PermissionError("only numbers are evaluated")
    elif event in OUTSIDE:
        raise PermissionError(f"{event} is forbidden")


def is_number(code: CodeType) -> bool:
    """Whether sympy's numbers are all that the code of a text has names for."""
    return NUMBERS.issuperset(code.co_names) and not any(isinstance(one, CodeType) for one in code.co_consts)


def expressions(text: str) -> list[Any]:
    """What the text may mean; nothing where it cannot be read."""
    found = parse(f"$${text}$$", LATEX, "no_fallback", parsing_timeout=None)
    return [one if is_too_long(one) else imaginary(one) for one in found]


def is_too_long(expression: Any) -> bool:
    """Whether part of an expression, which must not be evaluated for that, has more than `WRITTEN` digits."""
    return any(digits(one) > WRITTEN for one in preorder_traversal(expression))


def digits(expression: Any) -> float:
    """A bound on the digits of the numbers that an expression comes to, about, and of their reciprocals.

    Only arithmetic is counted: variables, and what functions make of numbers, have none.
    """
    if isinstance(expression, Rational):
        return math.log10(max(abs(expression.p), expression.q))
    if isinstance(expression, Float):
        return abs(math.log10(abs(expression))) if expression else 0.0
    bound = BOUNDS.get(type(expression))
    return bound([digits(one) for one in expression.args]) if bound else 0.0


def compare_long(golds: list[Any], candidates: list[Any]) -> tuple[bool, str]:
    """Whether two numbers are the same of which one at least cannot be written out."""
    if not any(map(is_too_long, golds)) or not any(map(is_too_long, candidates)):
        return False, f"only one of them has more than {WRITTEN} digits"
    if any(shortened(gold) == shortened(candidate) for gold in golds for candidate in candidates):
        return True, "the same power"
    raise TooLongError


def shortened(expression: Any) -> Any:
    """The expression with all parts evaluated that can be."""
    if not is_too_long(expression):
        return expression.doit()
    return expression.func(*map(shortened, expression.args), evaluate=False)


def imaginary(expression: Any) -> Any:
    """The expression with the unit i for a variable i, which math-verify reads."""
    units = [symbol for symbol in getattr(expression, "free_symbols", ()) if symbol.name == "i"]
    if not units or not isinstance(expression, Expr):
        return expression
    return expression.subs(dict.fromkeys(units, I)).doit()


def compare(reference: str, answer: str) -> tuple[bool, str]:
    """Whether two expressions in LaTeX mean the same, and why."""
    golds, candidates = expressions(reference), expressions(answer)
    if not golds:
        raise UnreadableReferenceError
    if not candidates:
        return False, "not an expression"
    if any(map(is_too_long, [*golds, *candidates])):
        return compare_long(golds, candidates)
    for gold in golds:
        for candidate in candidates:
            if verify(
                gold, candidate, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True
            ):
                return confirm(gold, candidate)
    return False, f"not {reference}"


def confirm(gold: Any, candidate: Any) -> tuple[bool, str]:
    """Whether what math-verify takes for equal is so: it forgives what is small, and reads "6 = 5" as 5."""
    if isinstance(candidate, Eq) and not isinstance(gold, Eq):
        left = candidate.lhs
        if not left.free_symbols and not verify(candidate.rhs, left, timeout_seconds=None):
            return False, "an equation that does not hold"
        candidate = candidate.rhs
    if isinstance(gold, Eq) and not isinstance(candidate, Eq):
        gold = gold.rhs
    if same_constant(gold, candidate):
        return True, "equal"
    return False, "near, but not equal"


def same_constant(gold: Any, candidate: Any) -> bool:
    """Whether two constants are equal to many digits; what are no constants need no second look."""
    if not (isinstance(gold, Expr) and isinstance(candidate, Expr)):
        return True
    if gold.free_symbols or candidate.free_symbols or gold.has(PERCENT) or candidate.has(PERCENT):
        return True
    ends = [abs(one.doit().evalf(DIGITS)) for one in (gold, candidate, gold - candidate)]
    tolerance = ROUNDED if gold.has(Float) or candidate.has(Float) else EXACT
    return ends[:2] == [0, 0] or bool(ends[2] <= tolerance * max(ends[:2]))


def within(text: str, low: str, high: str) -> tuple[bool, str]:
    """Whether an expression is a number between two fractions."""
    for expression in expressions(text):
        if is_too_long(expression):
            return False, f"more than {WRITTEN} digits"
        constant = expression.rhs if isinstance(expression, Eq) else expression
        if isinstance(constant, Basic) and constant.is_number:
            value = constant.doit().evalf(DIGITS)
            if value.is_real and Rational(Fraction(low)) <= value <= Rational(Fraction(high)):
                return True, "equal to the digits given"
    return False, "not that number"


def answer_to(request: dict[str, str]) -> dict[str, Any]:
    """The reply to a request."""
    try:
        equal, reason = within(**request) if "low" in request else compare(**request)
    except UnreadableReferenceError:
        return {"equal": False, "reason": "", "unreadable": True}
    except Exception as error:  # noqa: BLE001 (a library fed with anything)
        return {"equal": None, "reason": f"{type(error).__name__} while comparing"}
    return {"equal": equal, "reason": reason[:200]}


def main() -> None:
    """Serve until standard input ends. Arguments: most bytes of memory, most seconds of a request.

    The seconds only matter to a worker whose parent is gone; the parent itself is stricter.
    """
    seconds = math.ceil(2 * float(sys.argv[2])) + 1
    resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()
    answer_to({"reference": r"\sqrt{2}+x^2", "answer": r"\frac{x}{2}"})  # what is imported late
    sys.addaudithook(forbid_evaluation)
    print("ready", flush=True)  # noqa: T201 (the protocol)
    for line in sys.stdin:
        signal.alarm(seconds)  # nothing handles it: it kills
        print(json.dumps(answer_to(json.loads(line))), flush=True)  # noqa: T201 (the protocol)
        signal.alarm(0)


if __name__ == "__main__":
    main()
