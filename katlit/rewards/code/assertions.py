"""Tests as assertions, in two sandboxed processes, so that a program cannot change what is asked of it.

The *judge* holds the tests and runs them; the program's functions are stand-ins there (`remote.py`). A call
goes as JSON to the other process, which holds the program and nothing else, and comes back as plain data
(`plain_data.py`). So comparisons are made where the program cannot reach, with values that have no code.

Given to `sandboxed.py` as text, for both roles; it imports nothing but the standard library.
"""

import builtins
import json
import operator
import os
import sys
from collections import deque
from collections.abc import Callable
from functools import cached_property, partial
from types import ModuleType
from typing import Any

from katlit.rewards.code.offered import offered_names
from katlit.rewards.code.plain_data import PROGRAM, decode, encode
from katlit.rewards.code.remote import Link

_LINE_BYTES = 8 << 20
_ERROR_CHARACTERS = 200  # of a message: the whole verdict fits into a pipe, and below the limit of output
_CHANGEABLE = (list, dict, set, bytearray, deque)


def _iterate(value: Any) -> Any:
    iterator = iter(value)
    return iterator if iterator is value else list(iterator)  # one that may have no end is asked step by step


# What may be asked of an object, beside to be called.
_OPERATORS: dict[str, Callable[..., Any]] = {
    "attribute": getattr,
    "assign": setattr,
    "iterate": _iterate,
    "next": next,
    "length": len,
    "truth": bool,
    "text": str,
    "representation": repr,
    "hash": hash,
    "__int__": int,
    "__float__": float,
    "__round__": round,
    "is instance": lambda kind, value: isinstance(value, kind),
    "is subclass": lambda kind, value: issubclass(value, kind),
}


def _operator(what: str) -> Callable[..., Any]:
    """An operator by its name in `operator`, or by that name after "reflected "."""
    name = what.removeprefix("reflected ")
    found: Callable[..., Any] = _OPERATORS.get(what) or getattr(operator, name)
    return found if name == what else lambda own, other: found(other, own)


class Program:
    """The side that holds the program: answers requests until there are no more."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}  # of the objects, by their identity

    @cached_property
    def _names(self) -> dict[str, Any]:
        module = ModuleType(PROGRAM)
        sys.modules[PROGRAM] = module
        code = compile(self._source, "program.py", "exec")
        # What is offered is built in, not the program's own: a test that calls it by name finds none.
        module.__dict__["__builtins__"] = vars(builtins) | offered_names(code)
        exec(code, module.__dict__)  # noqa: S102 (what the sandbox is for)
        return module.__dict__

    def reply(self, request: list[Any]) -> list[Any]:
        """Do what is asked: `["value", result, changed arguments]`, or `["error", kind, message]`."""
        try:
            return self._done(*request)
        except StopIteration as error:
            return ["stop" if request[0] == "next" else "error", "RuntimeError", f"StopIteration: {error}"]
        except Exception as error:  # noqa: BLE001 (the program's)
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
            return ["error", kinds[0], str(error)[:_ERROR_CHARACTERS]]

    def _done(self, what: str, target: Any, arguments: list[Any], keywords: dict[str, Any]) -> list[Any]:
        if what == "name":
            return ["value", encode(self._named(target), self._refer), []]
        given = [decode(argument, self._objects.__getitem__) for argument in arguments]
        named = {name: decode(value, self._objects.__getitem__) for name, value in keywords.items()}
        act = self._objects[target] if what == "call" else partial(_operator(what), self._objects[target])
        result = act(*given, **named)
        return ["value", encode(result, self._refer), self._changed(given, arguments)]

    def _named(self, name: str) -> Any:
        if name in self._names:
            return self._names[name]
        solution = self._names.get("Solution")
        if solution is None or not hasattr(solution, name):
            raise NameError(f"the program defines no {name!r}")
        return lambda *given, **named: getattr(solution(), name)(*given, **named)  # anew for each call

    def _changed(self, given: list[Any], before: list[Any]) -> list[Any]:
        after = [
            encode(value, self._refer) if isinstance(value, _CHANGEABLE) else old
            for value, old in zip(given, before, strict=True)
        ]
        return [None if new == old else new for new, old in zip(after, before, strict=True)]

    def _refer(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # and so its identity remains its own
        return self._numbers[id(value)]


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
        verdict = judge(task["tests"], task["names"], Link(exchange, objects=task["objects"]))
        os.write(own_output, json.dumps(verdict).encode())


if __name__ == "__main__":
    main(globals()["task"])
