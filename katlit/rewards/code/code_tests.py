"""The tests of a programming task, as the `reference` of its prompt holds them."""

import ast
import builtins
import json
from dataclasses import dataclass
from typing import Any

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards.code.plain_data import ATTRIBUTES

_FORMS = '{"inputs": [...], "outputs": [...]} or {"asserts": [...]}'


@dataclass(frozen=True, slots=True)
class InputOutputTests:
    """What the program is to print for what it reads."""

    inputs: list[str]
    outputs: list[str]


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
    """Read the tests: JSON of one of two forms, both our choice.

    - `{"inputs": [...], "outputs": [...]}`: texts, one pair a test.
    - `{"asserts": [...]}`: Python, usually `assert f(2) == 4`, run in order in one name space; a piece may
      also import, define or loop. What the program must define goes into `"names": [...]`; it may be left out
      where the pieces use exactly one name that they do not define and that is not built in.

    Raises:
        UserError: where the reference has neither form.
    """
    try:
        form = json.loads(prompt["reference"])
    except (json.JSONDecodeError, RecursionError) as error:
        raise _wrong(prompt, f"is not JSON ({error})") from error
    keys = set(form) if isinstance(form, dict) else set()
    if keys == {"inputs", "outputs"}:
        return _input_output(prompt, form)
    if keys in ({"asserts"}, {"asserts", "names"}):
        return _asserts(prompt, form)
    raise _wrong(prompt, f"has the keys {sorted(keys)}" if keys else "is not a JSON object with keys")


def _input_output(prompt: Prompt, form: dict[str, Any]) -> InputOutputTests:
    inputs, outputs = _texts(prompt, form, "inputs"), _texts(prompt, form, "outputs")
    if len(inputs) != len(outputs):
        raise _wrong(prompt, f"has {len(inputs)} inputs and {len(outputs)} outputs")
    return InputOutputTests(inputs, outputs)


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
    """Whether the tests name a class, by a capital letter, or ask for attributes that data do not have."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {
        alias.asname or alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    return any(name[0].isupper() for name in names) or any(
        isinstance(node, ast.Attribute)
        and node.attr not in ATTRIBUTES
        and _root(node) not in modules | {"self"}
        for node in nodes
    )


def _root(node: ast.expr) -> str:
    """The name that an expression such as `a.b(c)[d]` begins with; empty where it is none."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


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
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise _wrong(prompt, f"needs a list of texts, at least one, as {key!r}")
    return values


def _wrong(prompt: Prompt, what: str) -> UserError:
    return UserError(
        f"prompt {prompt['id']!r}: verifier {prompt['verifier']!r} needs tests as reference, {_FORMS}; "
        f"this one {what}"
    )
