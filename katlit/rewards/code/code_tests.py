"""The tests of a programming task, as the `reference` of its prompt holds them."""

import ast
import builtins
import json
from dataclasses import dataclass
from typing import Any

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards.code.agreement import same_value
from katlit.rewards.code.plain_data import ATTRIBUTES
from katlit.rewards.code.remote import names_a_class

_SOLUTION = "Solution"  # the class whose methods are functions, at LeetCode
_FORMS = '{"inputs": [...], "outputs": [...]} or {"asserts": [...]}'


@dataclass(frozen=True, slots=True)
class InputOutputTests:
    """What the program is to print for what it reads.

    Args:
        inputs: What it reads, a text a test.
        outputs: What it is to print, likewise.
        tolerance: By how much numbers in its output may be off (`same_output`).
    """

    inputs: list[str]
    outputs: list[str]
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class AssertTests:
    """Pieces of Python that raise where the program is wrong, and the names that it must define.

    Args:
        asserts: The pieces, run in order.
        names: What the program must define.
        objects: Whether the tests are about objects of the program, not about data alone.
    """

    asserts: list[str]
    names: list[str]
    objects: bool = False


def tests_of(prompt: Prompt) -> InputOutputTests | AssertTests:
    """Read the tests: JSON of one of three forms, of which the second is our choice.

    - `{"inputs": [...], "outputs": [...]}`: texts, or lists of lines, one pair a test; perhaps with
      `"tolerance": 1e-6`, by which numbers may be off.
    - `{"asserts": [...]}`: Python, usually `assert f(2) == 4`, run in order in one name space; a piece may
      also import, define or loop. What the program must define goes into `"names": [...]`; it may be left out
      where the pieces use exactly one name that they do not define and that is not built in.

    - `{"fn_name": "f", "inputs": [...], "outputs": [...]}`: what a function, or a method of `Solution`, is
      given and to return, as APPS, TACO and LiveCodeBench write it (`_calls`); with a tolerance, perhaps.

    Raises:
        UserError: where the reference has none of these forms.
    """
    try:
        form = json.loads(prompt["reference"])
    except (json.JSONDecodeError, RecursionError) as error:
        raise _wrong(prompt, f"is not JSON ({error})") from error
    keys = set(form) if isinstance(form, dict) else set()
    if {"inputs", "outputs"} <= keys <= {"inputs", "outputs", "fn_name", "tolerance"}:
        return _input_output(prompt, form) if form.get("fn_name") is None else _calls(prompt, form)
    if keys in ({"asserts"}, {"asserts", "names"}):
        return _asserts(prompt, form)
    raise _wrong(prompt, f"has the keys {sorted(keys)}" if keys else "is not a JSON object with keys")


def _input_output(prompt: Prompt, form: dict[str, Any]) -> InputOutputTests:
    joined = {
        key: ["\n".join(entry) if _is_texts(entry) else entry for entry in form[key]]
        for key in ("inputs", "outputs")
        if isinstance(form[key], list)
    }
    inputs, outputs = (_texts(prompt, form | joined, key) for key in ("inputs", "outputs"))
    _require_pairs(prompt, inputs, outputs)
    return InputOutputTests(inputs, outputs, _tolerance(prompt, form))


def _calls(prompt: Prompt, form: dict[str, Any]) -> AssertTests:
    """Asserts for a function by its name, with inputs and outputs as judges of functions write them.

    An input is a list of arguments, or a text with one in JSON on each line; an output is the result, where
    it is a text as JSON. A result that stands in a list of its own, as in APPS, is meant as well.
    """
    name, inputs, outputs = (form[key] for key in ("fn_name", "inputs", "outputs"))
    if not (
        isinstance(name, str)
        and name.isidentifier()
        and isinstance(inputs, list)
        and isinstance(outputs, list)
    ):
        raise _wrong(prompt, f"needs a name as 'fn_name' and lists as 'inputs' and 'outputs', not {name!r}")
    _require_pairs(prompt, inputs, outputs)
    tolerance = _tolerance(prompt, form)
    asserts = []
    for given, result in zip(inputs, outputs, strict=True):
        try:
            arguments = (
                [json.loads(line) for line in given.split("\n") if line.strip()]
                if isinstance(given, str)
                else [*given]
            )
            wanted = (
                [json.loads(result)] if isinstance(result, str) and isinstance(given, str) else _meant(result)
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise _wrong(prompt, f"has a call that cannot be read ({error})") from error
        asserts.append(
            f"assert any(same_value(got, one, {tolerance}) "
            f"for got in [{name}(*{arguments!r})] for one in {wanted!r})"
        )
    asserts[0] = f"from {same_value.__module__} import same_value\nfrom math import inf, nan\n{asserts[0]}"
    return AssertTests(asserts, [name])


def _meant(result: Any) -> list[Any]:
    return [result, *result] if isinstance(result, list) and len(result) == 1 else [result]


def _require_pairs(prompt: Prompt, inputs: list[Any], outputs: list[Any]) -> None:
    if len(inputs) != len(outputs) or not inputs:
        raise _wrong(prompt, f"has {len(inputs)} inputs and {len(outputs)} outputs")


def _tolerance(prompt: Prompt, form: dict[str, Any]) -> float:
    tolerance = form.get("tolerance", 0.0)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise _wrong(prompt, f"has the tolerance {tolerance!r}, not a number from 0 to less than 1")
    return float(tolerance)


def _asserts(prompt: Prompt, form: dict[str, Any]) -> AssertTests:
    asserts = _texts(prompt, form, "asserts")
    try:
        trees = [ast.parse(text) for text in asserts]
    except (SyntaxError, ValueError, RecursionError) as error:
        raise _wrong(prompt, f"has a test that is not Python ({error})") from error
    names = _texts(prompt, form, "names") if "names" in form else _undefined(trees)
    if "names" not in form and len(names) != 1:
        raise _wrong(
            prompt,
            f"has asserts that use {names or 'only names that are built in or their own'}; list what the "
            'program must define in "names", and import or define the rest in a test',
        )
    return AssertTests(asserts, names, _about_objects(trees, names))


def _about_objects(trees: list[ast.Module], names: list[str]) -> bool:
    """Whether the tests name a class, or ask what the program gave for attributes that data do not have."""
    if any(names_a_class(name) and name != _SOLUTION for name in names):
        return True
    nodes = [node for tree in trees for node in ast.walk(tree)]
    bound = _bound(nodes)
    solutions = {name for name, value in bound if _is_solution(value, {_SOLUTION})} | {_SOLUTION}
    derived, before = set(names), set[str]()
    while derived != before:
        before = set(derived)
        derived |= {name for name, value in bound if _roots(value) & derived}
    return any(
        isinstance(node, ast.Attribute)
        and node.attr not in ATTRIBUTES
        and not _is_solution(node.value, solutions)
        and bool(_roots(node) & derived)
        for node in nodes
    )


def _is_solution(value: ast.expr, names: set[str]) -> bool:
    """Whether it is `Solution`, which holds functions as a module does, or the same by another name."""
    value = value.func if isinstance(value, ast.Call) else value
    return isinstance(value, ast.Name) and value.id in names


def _bound(nodes: list[ast.AST]) -> list[tuple[str, ast.expr]]:
    """Names of the tests, each with an expression that it is bound to, or to parts of."""
    functions = {node.name: node.args.args for node in nodes if isinstance(node, ast.FunctionDef)}
    pairs: list[tuple[ast.AST, ast.expr]] = []
    for node in nodes:
        match node:
            case ast.Assign(targets=targets, value=value):
                pairs += [(target, value) for target in targets]
            case (
                ast.NamedExpr(target=target, value=value)
                | ast.AnnAssign(target=target, value=ast.expr() as value)
                | ast.For(target=target, iter=value)
                | ast.comprehension(target=target, iter=value)
                | ast.withitem(optional_vars=ast.expr() as target, context_expr=value)
            ):
                pairs.append((target, value))
            case ast.Call(func=ast.Name(id=name), args=given) if name in functions:
                pairs += zip(functions[name], given, strict=False)
    return [
        (part.arg if isinstance(part, ast.arg) else part.id, value)
        for target, value in pairs
        for part in ast.walk(target)
        if isinstance(part, ast.Name | ast.arg)
    ]


def _roots(value: ast.expr) -> set[str]:
    """The names that an expression such as `a.b(c)[d]` begins with; several in `a, b` or `a or b`."""
    found: set[str] = set()
    pending = [value]
    while pending:
        match pending.pop():
            case ast.Name(id=name):
                found.add(name)
            case (
                ast.Call(func=inner)
                | ast.Attribute(value=inner)
                | ast.Subscript(value=inner)
                | ast.ListComp(elt=inner)
            ):
                pending.append(inner)
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.BoolOp(values=parts):
                pending += parts
            case ast.BinOp(left=left, right=right) | ast.IfExp(body=left, orelse=right):
                pending += [left, right]
    return found


def _undefined(trees: list[ast.Module]) -> list[str]:
    used: set[str] = set()
    defined = set(dir(builtins))
    for node in (node for tree in trees for node in ast.walk(tree)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                defined.add(name)
            case ast.alias(name=name, asname=asname):
                defined.add(asname or name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)):
                defined.add(name)
    return sorted(used - defined)


def _texts(prompt: Prompt, form: dict[str, Any], key: str) -> list[str]:
    values = form[key]
    if not _is_texts(values) or not values:
        raise _wrong(prompt, f"needs a list of texts, at least one, as {key!r}")
    return values


def _is_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _wrong(prompt: Prompt, what: str) -> UserError:
    return UserError(
        f"prompt {prompt['id']!r}: verifier {prompt['verifier']!r} needs tests as reference, {_FORMS}; "
        f"this one {what}"
    )
