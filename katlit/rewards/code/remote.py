"""The judge's stand-ins for objects of the program, and its line to them.

What they are asked is answered by the program, so it depends on the tests what they may be asked. Tests that
are about *objects* (a class, or attributes that data do not have) ask them whatever Python can. Where the
tests are about *data*, an object is none: it may be called, measured, indexed, iterated and turned into text,
for what comes back is compared as data, and no more.

In neither case it equals data, or is more or less than data: a program that answers for what a test compares
with would be right whatever it computes. So an operation of an object and data must give an object, as
`2 * vector` does, which is then `mixed`: it may be compared with objects, but has no size, number or truth.

Runs inside the sandbox, given as text; it imports nothing but the standard library.
"""

import builtins
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from katlit.rewards.code.plain_data import ATTRIBUTES, decode, encode

_ERROR_CHARACTERS = 200
_NO_DATA = "the program gave an object, where the test wants data"
_ITERATION_ENDS = (StopIteration, StopAsyncIteration)


class Link:
    """The judge's line to the program.

    Args:
        exchange: Sends a request and gives the reply, a line of JSON each; empty where the program ended.
        objects: Whether the tests are about objects, not about data alone.
    """

    def __init__(self, exchange: Callable[[str], bytes], *, objects: bool = False) -> None:
        self._exchange = exchange
        self._objects = objects
        # So that one object is one for the tests too.
        self._remotes: dict[tuple[int, bool, bool], Remote] = {}
        self._classes: set[int] = set()  # that the tests name
        self.made: set[int] = set()  # objects that the tests made of these classes
        self.ended = False
        self.unsupported = ""  # what of a test cannot be asked

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
        if kind == "stop" and what == "next":
            raise StopIteration
        if kind != "value":
            raise _error(result, str(rest)[:_ERROR_CHARACTERS])

        made = what == "call" and target in self._classes
        answers = self._objects or what == "name" or made  # not where a call gives what has a name

        def remote(number: int) -> Remote:
            return self._remote(number, answers=answers)

        for argument, new in zip(arguments, rest, strict=False):
            if new is not None:
                _replace(argument, decode(new, remote))
        found = decode(result, remote)
        if isinstance(found, Remote) and (made or (what == "name" and names_a_class(target))):
            (self.made if made else self._classes).add(self._number(found))
        return found

    def _remote(self, number: int, *, answers: bool, mixed: bool = False) -> "Remote":
        remote = Remote(self, number, answers=answers, mixed=mixed)
        return self._remotes.setdefault((number, answers, mixed), remote)

    def mixed(self, value: Any) -> "Remote":
        """The object that an operation with plain data gave; plain data is none."""
        if not isinstance(value, Remote):
            raise TypeError(_NO_DATA)
        return self._remote(self._number(value), answers=True, mixed=True)

    def refuse(self, why: str) -> TypeError:
        """The error of what cannot be asked; the tests are then not judged."""
        self.unsupported = why
        return TypeError(why)

    def _number(self, value: Any) -> int:
        if isinstance(value, Remote):
            return value._number  # noqa: SLF001 (a name that programs do not use)
        raise self.refuse(f"a test hands the program a {type(value).__name__}, which cannot be sent")


def names_a_class(name: str) -> bool:
    """Whether what a program must define is a class by its name, as `ListNode` is and `Find_Max` is not."""
    return name[:1].isupper() and "_" not in name


def _error(name: str, message: str) -> Exception:
    """The built-in error of that name, unless it would end an iteration of the test's as if all were done."""
    found = getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, _ITERATION_ENDS):
        return found(message)
    return RuntimeError(message)


class Remote:
    """The judge's stand-in for an object of the program.

    Args:
        link: The line to the program.
        number: The object's.
        answers: Whether the object answers for itself, since the tests are about objects or name this one.
        mixed: Whether it came of an operation with plain data, which may be what the test wants.
    """

    __slots__ = ("_answers", "_link", "_mixed", "_number")

    def __init__(self, link: Link, number: int, *, answers: bool, mixed: bool) -> None:
        values = {"_link": link, "_number": number, "_answers": answers, "_mixed": mixed}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _ask(self, what: str, *arguments: Any) -> Any:
        return self._link.ask(what, self._number, *arguments)

    def _operate(self, what: str, *others: Any, mixed: bool) -> Any:
        if not self._answers:
            raise TypeError(_NO_DATA)
        found = self._ask(what, *others)
        return self._link.mixed(found) if mixed or self._mixed else found

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:  # noqa: D102 (the object's)
        return self._link.ask("call", self._number, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES and not self._answers:
            raise AttributeError(f"the program gave an object, where the test wants data with {name!r}")
        return self._ask("attribute", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("assign", name, value)

    def __iter__(self) -> Any:
        found = self._ask("iterate")
        return found if isinstance(found, Remote) else iter(found)

    def __next__(self) -> Any:
        return self._ask("next")

    def __len__(self) -> int:
        return int(self._ask("length"))

    def __bool__(self) -> bool:
        return bool(self._operate("truth", mixed=False)) if self._answers else True

    def __str__(self) -> str:
        return str(self._ask("text"))

    def __repr__(self) -> str:
        return str(self._ask("representation"))

    def __getitem__(self, key: Any) -> Any:
        return self._ask("__getitem__", key)

    def __contains__(self, item: Any) -> bool:
        if self._answers and (isinstance(item, Remote) or self._number in self._link.made):
            return bool(self._ask("__contains__", item))
        return any(item is one or item == one for one in self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Remote):
            return NotImplemented
        if self._number == other._number:
            return True
        if not self._answers:
            raise self._link.refuse("a test compares two objects of the program, which only it can")
        return bool(self._ask("__eq__", other))

    def __hash__(self) -> int:
        return int(self._ask("hash")) if self._answers else self._number

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and bool(self._ask("is instance", value))

    def __subclasscheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and bool(self._ask("is subclass", value))

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise self._link.refuse("a test copies an object of the program, which stays where it is")

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return bool(self.__getattr__("__exit__")(None, None, None))


def _with_another(what: str) -> Callable[..., Any]:
    def method(self: Remote, *others: Any) -> Any:
        mixed = any(not isinstance(other, Remote) or other._mixed for other in others)  # noqa: SLF001
        return self._operate(what, *others, mixed=mixed)

    return method


def _ordered(what: str) -> Callable[..., Any]:
    def method(self: Remote, other: Any) -> Any:
        if not (self._answers and isinstance(other, Remote)):
            raise TypeError(_NO_DATA)
        return self._ask(what, other)

    return method


def _of_itself(what: str) -> Callable[..., Any]:
    def method(self: Remote, *others: Any) -> Any:
        return self._operate(what, *others, mixed=False)

    return method


for _name in [
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "or",
    "xor",
]:
    setattr(Remote, f"__{_name}__", _with_another(f"__{_name}__"))
    setattr(Remote, f"__r{_name}__", _with_another(f"reflected __{_name}__"))
for _name in ["lt", "le", "gt", "ge"]:
    setattr(Remote, f"__{_name}__", _ordered(f"__{_name}__"))
for _name in ["neg", "pos", "abs", "invert", "int", "float", "round", "setitem", "delitem"]:
    setattr(Remote, f"__{_name}__", _of_itself(f"__{_name}__"))


def _replace(value: Any, new: Any) -> None:
    """Bring what a call has changed in place to the test's own object."""
    if isinstance(value, list | bytearray):
        value[:] = new
    elif isinstance(value, deque):
        value.clear()
        value.extend(new)
    elif isinstance(value, dict | set):
        value.clear()
        value.update(new)
