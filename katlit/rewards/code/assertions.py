"""Tests as assertions, in two sandboxed processes, so that a program cannot change what is asked of it.

The *judge* holds the tests and runs them; the program's functions are stand-ins there. A call goes as JSON to
the other process, which holds the program and nothing else, and comes back as plain data: numbers, text,
lists, dictionaries and the like. So comparisons are made where the program cannot reach, with values that
have no code. Other objects, such as those of the program's classes, stay where they are; the judge may call
them, ask for their attributes, length, items or text, and pass them back, but they equal nothing.

Given to `sandboxed.py` as text, for both roles; it imports nothing but the standard library.
"""

import builtins
import json
import operator
import os
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from types import ModuleType
from typing import Any

_MODULE = "answer"  # the name that the program runs under
_LINE_BYTES = 8 << 20
_EXACT = 1 << 53
_ERROR_CHARACTERS = 200  # of a message: the whole verdict fits into a pipe, and below the limit of output
_Row = type[list[Any]] | type[tuple[Any, ...]] | type[set[Any]] | type[frozenset[Any]]
_ROWS: dict[str, _Row] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
# Name: type, how it is written, how it is read.
_SCALARS: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "int": (int, hex, lambda digits: int(digits, 16)),
    "complex": (complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    "bytes": (bytes, lambda value: value.decode("latin-1"), lambda text: bytes(text, "latin-1")),
    "bytearray": (bytearray, lambda value: value.decode("latin-1"), lambda text: bytearray(text, "latin-1")),
}
_CHANGEABLE = (list, dict, set, bytearray)
_OPERATORS: dict[str, Callable[..., Any]] = {
    "iterate": list,
    "length": len,
    "text": str,
    "item": operator.getitem,
    "contains": operator.contains,
}

Refer = Callable[[Any], int]


def encode(value: Any, refer: Refer) -> Any:
    """JSON for a value; `refer` gives the number of an object that is not plain data."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int) and abs(value) < _EXACT:
        return int(value)
    for name, (scalar, write, _) in _SCALARS.items():
        if isinstance(value, scalar):
            return [name, write(value)]
    return _encode_container(value, refer)


def _encode_container(value: Any, refer: Refer) -> Any:
    if _has_methods(type(value)):
        return ["object", refer(value)]
    for name, row in _ROWS.items():
        if isinstance(value, row):
            return [name, [encode(item, refer) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(key, refer), encode(item, refer)] for key, item in value.items()]]
    return ["object", refer(value)]


def _has_methods(kind: type) -> bool:
    """Whether the program made more of a container than a container."""
    own = kind.__module__ == _MODULE and not hasattr(kind, "_fields")  # a named tuple is a tuple
    return own and any(not name.startswith("_") for name in vars(kind))


def decode(value: Any, look_up: Callable[[int], Any]) -> Any:
    """The value of such JSON; an object is what `look_up` gives for its number."""
    if not isinstance(value, list):
        return value
    name, content = value
    if name in _ROWS:
        return _ROWS[name]([decode(item, look_up) for item in content])
    if name == "dict":
        return {decode(key, look_up): decode(item, look_up) for key, item in content}
    return _SCALARS[name][2](content) if name in _SCALARS else look_up(content)


class Program:
    """The side that holds the program: answers requests until there are no more."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._objects: list[Any] = []

    @cached_property
    def _names(self) -> dict[str, Any]:
        module = ModuleType(_MODULE)
        sys.modules[_MODULE] = module
        exec(compile(self._source, "program.py", "exec"), module.__dict__)  # noqa: S102 (what the sandbox is for)
        return module.__dict__

    def reply(self, request: list[Any]) -> list[Any]:
        """Do what is asked: `["value", result, changed arguments]`, or `["error", kind, message]`."""
        try:
            return self._done(*request)
        except Exception as error:  # noqa: BLE001 (the program's)
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
            return ["error", kinds[0], str(error)[:_ERROR_CHARACTERS]]

    def _done(self, what: str, target: Any, arguments: list[Any], keywords: dict[str, Any]) -> list[Any]:
        if what == "name":
            if target not in self._names:
                raise NameError(f"the program defines no {target!r}")
            return ["value", encode(self._names[target], self._refer), []]
        given = [decode(argument, self._objects.__getitem__) for argument in arguments]
        named = {name: decode(value, self._objects.__getitem__) for name, value in keywords.items()}
        if what == "attribute":
            result = getattr(self._objects[target], *given)
        elif what == "call":
            result = self._objects[target](*given, **named)
        else:
            result = _OPERATORS[what](self._objects[target], *given)
        return ["value", encode(result, self._refer), self._changed(given, arguments)]

    def _changed(self, given: list[Any], before: list[Any]) -> list[Any]:
        after = [
            encode(value, self._refer) if isinstance(value, _CHANGEABLE) else old
            for value, old in zip(given, before, strict=True)
        ]
        return [None if new == old else new for new, old in zip(after, before, strict=True)]

    def _refer(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1


class Link:
    """The judge's line to the program.

    Args:
        exchange: Sends a request and gives the reply, a line of JSON each; empty where the program ended.
    """

    def __init__(self, exchange: Callable[[str], bytes]) -> None:
        self._exchange = exchange
        self.ended = False
        self.unsupported = ""  # what of a test cannot be sent

    def ask(self, what: str, target: Any, /, *arguments: Any, **keywords: Any) -> Any:
        """The result of a request; the program's errors are raised as the built-in ones nearest to them."""
        request = [
            what,
            target,
            [encode(argument, self._number) for argument in arguments],
            {name: encode(value, self._number) for name, value in keywords.items()},
        ]
        line = self._exchange(json.dumps(request))
        if not line.endswith(b"\n"):
            self.ended = True
            raise EOFError("the program has ended")
        kind, result, rest = json.loads(line)
        if kind == "error":
            found = getattr(builtins, result, None)
            known = found if isinstance(found, type) and issubclass(found, Exception) else RuntimeError
            raise known(str(rest)[:_ERROR_CHARACTERS])
        for argument, new in zip(arguments, rest, strict=False):
            if new is not None:
                _replace(argument, decode(new, self._remote))
        return decode(result, self._remote)

    def _number(self, value: Any) -> int:
        if isinstance(value, Remote):
            return value._number  # noqa: SLF001 (a name that programs do not use)
        self.unsupported = f"a test hands the program a {type(value).__name__}, which cannot be sent"
        raise TypeError(self.unsupported)

    def _remote(self, number: int) -> "Remote":
        return Remote(self, number)


class Remote:
    """The judge's stand-in for an object of the program."""

    __slots__ = ("_link", "_number")

    def __init__(self, link: Link, number: int) -> None:
        self._link, self._number = link, number

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:  # noqa: D102 (the object's)
        return self._link.ask("call", self._number, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return self._link.ask("attribute", self._number, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._link.ask("iterate", self._number))

    def __len__(self) -> int:
        return int(self._link.ask("length", self._number))

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return str(self._link.ask("text", self._number))

    def __getitem__(self, key: Any) -> Any:
        return self._link.ask("item", self._number, key)

    def __contains__(self, item: Any) -> bool:
        return bool(self._link.ask("contains", self._number, item))


def _replace(value: Any, new: Any) -> None:
    """Bring what a call has changed in place to the test's own object."""
    if isinstance(value, list | bytearray):
        value[:] = new
    elif isinstance(value, dict | set):
        value.clear()
        value.update(new)


def judge(tests: list[str], names: list[str], link: Link) -> dict[str, Any]:
    """Run the tests in order up to the first that fails.

    Returns:
        `passed`: how many passed; `why` the next did not, empty where all did; `ended`: whether the program
        had; `unsupported`: why the tests cannot be run so.
    """
    space: dict[str, Any] = {"__name__": "tests"}
    passed, why = 0, ""
    try:
        space |= {name: link.ask("name", name) for name in names}
        for test in tests:
            exec(compile(test, f"test {passed + 1}", "exec"), space)  # noqa: S102 (what the sandbox is for)
            if link.ended or link.unsupported:
                break  # a test may have caught it
            passed += 1
    except BaseException as error:  # noqa: BLE001 (whatever it is, the test has not passed)
        why = "assertion failed" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    why, unsupported = why[:_ERROR_CHARACTERS], link.unsupported[:_ERROR_CHARACTERS]
    return {"passed": passed, "why": why, "ended": link.ended, "unsupported": unsupported}


def main(task: dict[str, Any]) -> None:
    """Play the role that the task names."""
    with os.fdopen(task["read"], "rb") as incoming, os.fdopen(task["write"], "wb") as outgoing:
        if "program" in task:
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)  # what it prints is not asked for
            program = Program(task["program"])
            for line in incoming:
                outgoing.write(json.dumps(program.reply(json.loads(line))).encode() + b"\n")
                outgoing.flush()
            return

        def exchange(request: str) -> bytes:
            try:
                outgoing.write(request.encode() + b"\n")
                outgoing.flush()
            except BrokenPipeError:
                return b""
            return incoming.readline(_LINE_BYTES)

        own_output = os.dup(1)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)  # what the tests print is not the verdict
        verdict = judge(task["tests"], task["names"], Link(exchange))
        os.write(own_output, json.dumps(verdict).encode())


if __name__ == "__main__":
    main(globals()["task"])
