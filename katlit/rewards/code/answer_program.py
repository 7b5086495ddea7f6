"""The program within an answer: which of its fenced blocks is the solution."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from katlit.rewards.code.code_tests import AssertTests, InputOutputTests

_OPENING = re.compile(r"([ \t]*+)(`{3,}+|~{3,}+)([^`\n]*+)\n?")
_PYTHON = re.compile(r"|i?py[\d.]*|i?python[\d.]*|pypy[\d.]*", re.IGNORECASE)
_READS = re.compile(r"\binput\s*[(,]|\bstdin\b|\bopen\s*\(\s*0|\bread\s*\(\s*0|\bfileinput\b|/dev/stdin")
_PRINTS = re.compile(r"\bprint\b|\bstdout\b|\bwrite\s*\(")


@dataclass(slots=True)
class _Fence:
    """A fenced block: its language in one word, how it was opened, and its lines."""

    language: str
    marker: str
    indent: str
    lines: list[str] = field(default_factory=list)

    def closed_by(self, line: str) -> bool:
        """Whether a line closes the block: at least as many of the same characters, and nothing else."""
        bare = line.strip()
        return bare.startswith(self.marker) and not bare.strip(self.marker[0])

    def text(self) -> str:
        """The block's text, without the indentation of its opening line."""
        return "".join(line.removeprefix(self.indent) for line in self.lines)


def program_of(answer: str, tests: InputOutputTests | AssertTests) -> str:
    """The answer's program; all of the answer where it has no fenced block.

    Of the blocks in Python, or in no language that is named, it is the last that can do what the tests ask:
    one that defines all names they use, or that reads standard input, or prints where they give none. Where
    none can, it is the last. A block opens with three or more backticks or tildes, indented or not, and ends
    with as many, or with the answer.
    """
    fences = list(_fences(answer))
    if not fences:
        return answer
    programs = [fence.text() for fence in fences if _PYTHON.fullmatch(fence.language)]
    programs = programs or [fence.text() for fence in fences]
    return next((program for program in reversed(programs) if _serves(program, tests)), programs[-1])


def _fences(answer: str) -> Iterator[_Fence]:
    fence: _Fence | None = None
    for line in answer.splitlines(keepends=True):
        if fence is None:
            opening = _OPENING.fullmatch(line)
            if opening:
                indent, marker, info = opening.groups()
                language = re.split(r"[\s,:;}]", info.lstrip("{. \t"), maxsplit=1)[0]
                fence = _Fence(language, marker, indent)
        elif fence.closed_by(line):
            yield fence
            fence = None
        else:
            fence.lines.append(line)
    if fence is not None:
        yield fence


def _serves(program: str, tests: InputOutputTests | AssertTests) -> bool:
    # By the text and not by its syntax tree: no parser of the trainer's sees what a model wrote.
    if isinstance(tests, AssertTests):
        return all(_defines(program, name) for name in tests.names)
    wanted = _READS if any(text.strip() for text in tests.inputs) else _PRINTS
    return wanted.search(program) is not None


def _defines(program: str, name: str) -> bool:
    name = re.escape(name)
    defined = rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b|^{name}[ \t]*[:=](?!=)"
    return re.search(defined, program, re.MULTILINE) is not None
