"""Tests of a program's functions, judged in this process and without a sandbox."""

import json
from typing import Any

from katlit.rewards.code import code_tests
from katlit.rewards.code.assertions import Program, judge
from katlit.rewards.code.remote import Link


def link_to(program: str, *, objects: bool = False) -> Link:
    """A line to a program in this process."""
    held = Program(program)
    return Link(lambda request: json.dumps(held.reply(json.loads(request))).encode() + b"\n", objects=objects)


def judged(program: str, *tests: str, names: tuple[str, ...] = ("f",)) -> dict[str, Any]:
    """The verdict on tests as the reference of a prompt holds them."""
    read = code_tests.tests_of(
        {"id": "p", "reference": json.dumps({"asserts": tests, "names": names}), "verifier": "code"}
    )
    assert isinstance(read, code_tests.AssertTests)
    return judge(read.asserts, read.names, link_to(program, objects=read.objects))
