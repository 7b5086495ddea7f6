"""The user's own Python files that settings name by their classes."""

import ast
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path

_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
_INSTALLED = {"site-packages", "dist-packages"}


def own_files(texts: Iterable[str]) -> list[Path]:
    """The files of all own classes and functions among some texts, and those that they import in turn.

    Own is what lies in the working folder or on Python's path, but neither in a folder of installed packages
    nor in Python's own. Nothing is imported.

    Args:
        texts: Such as `mine.Reward`; one that names nothing, or a file, is passed over.
    """
    found: dict[Path, str] = {}  # and the package that each one's relative imports start from
    left = [text for text in texts if _DOTTED.fullmatch(text) and not _is_file(text)]
    while left:
        for file, package in _files(left.pop()):
            if file not in found:
                found[file] = package
                left += _imported(file, package)
    return sorted(found)


def _files(name: str) -> Iterator[tuple[Path, str]]:
    """The own files that importing a name reads, with the package of each, outermost first."""
    parts = name.split(".")
    if parts[0] == "katlit":  # its version stands for it
        return
    # The commands of a recipe look into the working folder last, see `katlit.cli`.
    places = [Path(place).absolute() for place in [*sys.path, str(Path.cwd())]]
    for number, part in enumerate(parts):
        file, places = _look_up(part, places)
        if file is not None and not _is_own(file):
            return
        if file is not None:
            yield file, ".".join(parts[: number + (file.name == "__init__.py")])


def _look_up(name: str, places: list[Path]) -> tuple[Path | None, list[Path]]:
    """The file of a module in the first of some folders that has it, and the folders of what is below it."""
    folders = []
    for place in places:
        folder = place / name
        if _is_file(folder / "__init__.py"):
            return folder / "__init__.py", [folder]
        if _is_file(place / f"{name}.py"):
            return place / f"{name}.py", []
        folders += [folder] if os.path.isdir(folder) else []  # noqa: PTH112
    return None, folders


def _is_file(place: str | Path) -> bool:
    return os.path.isfile(place)  # noqa: PTH113 (`Path.is_file` fails on a text that is too long for a name)


def _is_own(file: Path) -> bool:
    installed = _INSTALLED & {*file.parts} or file.is_relative_to(sysconfig.get_path("stdlib"))
    return not installed


def _imported(file: Path, package: str) -> list[str]:
    """Full names of all that a file imports; none where it is no Python that can be read."""
    names: list[str] = []
    nodes: list[ast.AST] = []
    with suppress(OSError, SyntaxError, ValueError):  # the step itself will say so
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # it leads out of the package; another way may be tried beside it
                module = resolve_name("." * node.level + (node.module or ""), package)
                names += [f"{module}.{alias.name}" for alias in node.names]
    return names
