"""Worked solutions of two procedural tasks: steps, a check, the result; pure functions.

They are what the small models under `assets/` were trained on, and nothing else uses them: labels come from
models, see `katlit.datamodules.Labeller`.
"""

from typing import Any

from katlit.errors import UserError


def solve(dataset: str, metadata: dict[str, Any]) -> list[str]:
    """Work a question out, one calculation a line.

    Args:
        dataset: `basic_arithmetic` (sums and differences without parentheses) or `leg_counting`, of
            reasoning-gym.
        metadata: What reasoning-gym says about the question.

    Returns:
        Lines such as `7 + 8 = 15`; the last one ends in the result.

    Raises:
        UserError: for another data set.
    """
    if dataset == "basic_arithmetic":
        return _chain(metadata["expression"].split())
    if dataset == "leg_counting":
        return _legs(metadata["animals"])
    raise UserError(f"no worked solutions for data set {dataset!r}; use basic_arithmetic or leg_counting")


def thinking(lines: list[str]) -> str:
    """The lines, and the same again as a check: a thinker that makes sure, at twice the tokens."""
    return "\n".join([*lines, "check", *lines])


def result(lines: list[str]) -> str:
    """What the last line ends in."""
    return lines[-1].rpartition(" = ")[2]


def _chain(words: list[str]) -> list[str]:
    """Left to right."""
    total, lines = int(words[0]), list[str]()
    for operator, operand in zip(words[1::2], words[2::2], strict=True):
        lines += _step(total, operator, int(operand))
        total = int(result(lines))
    return lines


def _legs(animals: dict[str, int]) -> list[str]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    lines: list[str] = []
    total: int | None = None
    for animal, count in animals.items():
        lines += _step(count, "*", ANIMALS[animal])
        legs = int(result(lines))
        if total is not None:
            lines.append(_line(total, "+", legs))
        total = int(result(lines))
    return lines


def _step(left: int, operator: str, right: int) -> list[str]:
    """One calculation; tens and units apart where both of a sum, or one of a product, have two digits."""
    if operator == "*":
        if abs(left) < 10 <= right:
            left, right = right, left
        tens, units = _split(left)
        if not (tens and units):
            return [_line(left, operator, right)]
        return [_line(tens, "*", right), _line(units, "*", right), _line(tens * right, "+", units * right)]
    tens, units = _split(left)
    more_tens, more_units = _split(right)
    if not (tens and units and more_tens and more_units):
        return [_line(left, operator, right)]
    lines = [_line(tens, operator, more_tens), _line(units, operator, more_units)]
    total, rest = (int(result([line])) for line in lines)
    return [*lines, _line(total, "+" if rest >= 0 else "-", abs(rest))]


def _split(number: int) -> tuple[int, int]:
    """Tens and units, both with the number's sign."""
    units = abs(number) % 10 * (1 if number >= 0 else -1)
    return number - units, units


def _line(left: int, operator: str, right: int) -> str:
    values = {"+": left + right, "-": left - right, "*": left * right}
    return f"{left} {operator} {right} = {values[operator]}"
