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
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from types import CodeType
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import (
    Add,
    Basic,
    Eq,
    Expr,
    FiniteSet,
    Float,
    I,
    Integer,
    Interval,
    Mul,
    Pow,
    Rational,
    Symbol,
    Tuple,
    UnevaluatedExpr,
    factorial,
    log,
    preorder_traversal,
)  # fmt: skip
from sympy.core.relational import Relational
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
EVALUATED = 300  # most digits of an exponent that is computed
ARITHMETIC = (Rational, Float, Add, Mul, Pow, factorial)


class UnreadableReferenceError(Exception):
    """The reference is nothing that math-verify reads."""


class TooLongError(Exception):
    """What is compared has numbers that are too long to be written out, and nothing else decides."""


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
    return any(isinstance(one, Expr) and digits(one) > WRITTEN for one in preorder_traversal(expression))


@lru_cache(maxsize=10_000)  # in a tower each exponent is asked for by all below it
def digits(expression: Any) -> float:
    """A bound on the digits of the numbers that an expression comes to, about, and of their reciprocals.

    Only arithmetic is counted: variables, and what functions make of numbers, have none.
    """
    if isinstance(expression, Rational):
        return math.log10(max(abs(expression.p), expression.q))
    if isinstance(expression, Float):  # it may be beyond Python's own
        return abs(float(log(abs(expression), 10))) if expression else 0.0
    if isinstance(expression, Pow | factorial):  # n! < n^n
        return digits(expression.args[0]) * size(expression.args[-1])
    parts = list(map(digits, expression.args)) if isinstance(expression, Add | Mul) else [0.0]
    return sum(parts) if isinstance(expression, Mul) else max(parts) + math.log10(len(parts))


def size(exponent: Any) -> float:
    """The absolute value of an exponent; where it is not known, a bound on it, at most 10^300."""
    value = evaluated(exponent)
    return 10 ** min(digits(exponent), EVALUATED) if value is None else value


def evaluated(exponent: Any) -> float | None:
    """The absolute value of an exponent that is a number, not a long one and made of none."""
    if all(isinstance(one, ARITHMETIC) and digits(one) < EVALUATED for one in preorder_traversal(exponent)):
        value = exponent.doit()
        return abs(float(value)) if isinstance(value, Rational | Float) else None
    return None


def is_long_number(expression: Any) -> bool:
    """Whether an expression surely is no number of at most `WRITTEN` digits, whatever its parts come to."""
    if isinstance(expression, Relational) and isinstance(expression.lhs, Symbol):
        return is_long_number(expression.rhs)
    if isinstance(expression, FiniteSet | Interval | Tuple):
        return any(map(is_long_number, expression.args))
    return isinstance(expression, Expr) and least_digits(expression) > WRITTEN


def least_digits(expression: Any) -> float:
    """The digits that an expression has at least, about, as `digits` counts; 0 where that is not known."""
    if isinstance(expression, Rational | Float):
        return digits(expression)
    if isinstance(expression, Pow):
        return least_of_power(*expression.args)
    if isinstance(expression, factorial):
        return 0.9 * digits(expression) if is_natural(*expression.args) else 0.0  # n! > n^(0.9 n)
    if not isinstance(expression, Add | Mul):
        return 0.0
    *others, longest = sorted(expression.args, key=digits)
    if any(is_too_long(one) or (isinstance(expression, Mul) and one.doit() == 0) for one in others):
        return 0.0  # they may cancel
    return least_digits(longest) - sum(map(digits, others))


def least_of_power(base: Any, exponent: Any) -> float:
    """What `least_digits` is of a power."""
    if is_too_long(base) or not (base.is_polynomial() and base.doit().free_symbols):
        least = least_digits(base)
    else:
        least = digits(base)  # (1+x)^n has long coefficients
    times = evaluated(exponent)
    if times is None:
        times = math.inf if is_natural(exponent) else 0.0
    return least * times if least > 0 else 0.0


def is_natural(expression: Any) -> bool:
    """Whether an expression surely is a positive integer, or minus one."""
    if isinstance(expression, Mul) and expression.args[0] == -1:
        expression = Mul(*expression.args[1:], evaluate=False)
    return all(
        one > 0 if isinstance(one, Integer) else isinstance(one, Add | Mul | Pow | factorial)
        for one in preorder_traversal(expression)
    )


def compare_long(golds: list[Any], candidates: list[Any]) -> tuple[bool, str]:
    """Whether two expressions are the same of which one at least cannot be written out."""
    for some, others in ((golds, candidates), (candidates, golds)):
        if any(map(is_long_number, some)) and not any(map(is_too_long, others)):
            return False, f"only one of them has more than {WRITTEN} digits"
    if any(shortened(gold) == shortened(candidate) for gold in golds for candidate in candidates):
        return True, "the same long number"
    raise TooLongError(f"part of an expression has more than {WRITTEN} digits")


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
        constant = expression.rhs if isinstance(expression, Eq) else expression
        if is_beyond(constant):
            return False, f"more than {WRITTEN} digits"
        if isinstance(constant, Basic) and constant.is_number:
            value = (constant if is_too_long(constant) else constant.doit()).evalf(DIGITS)
            if value.is_real and Rational(Fraction(low)) <= value <= Rational(Fraction(high)):
                return True, "equal to the digits given"
    return False, "not that number"


def is_beyond(expression: Any) -> bool:
    """Whether a number is larger, or nearer to 0, than what is written in digits.

    Raises:
        TooLongError: where it cannot be told, and a decimal of it would take too long as well.
    """
    if not is_too_long(expression):
        return False
    long = [one for one in preorder_traversal(expression) if isinstance(one, Expr) and digits(one) > WRITTEN]
    if not is_long_number(expression) or any(isinstance(one, Add) for one in long):
        raise TooLongError(f"part of an expression has more than {WRITTEN} digits")
    towers = (one for one in long if isinstance(one, Pow) and evaluated(one.exp) is None)
    return any(towers) or any(isinstance(one, factorial) for one in long)


def answer_to(request: dict[str, str]) -> dict[str, Any]:
    """The reply to a request."""
    try:
        equal, reason = within(**request) if "low" in request else compare(**request)
    except UnreadableReferenceError:
        return {"equal": False, "reason": "", "unreadable": True}
    except TooLongError as error:
        return {"equal": None, "reason": str(error)}
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
