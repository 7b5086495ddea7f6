"""Environments with some of the packages of this one, by links."""

import venv
from collections.abc import Collection, Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def empty(folder: Path) -> Path:
    """The interpreter of a new environment without any package."""
    venv.create(folder, symlinks=True)
    return folder / "bin/python"


def link(python: Path, names: Iterable[str]) -> None:
    """Add packages of this environment, but none that they require, to the one that an interpreter is of."""
    (packages,) = python.parents[1].glob("lib/*/site-packages")
    for place in {place for name in names for place in top_level(name)}:
        if not (packages / place.name).exists():
            (packages / place.name).symlink_to(place)


def required(lines: Iterable[str], without: Collection[str] = ()) -> set[str]:
    """Names of the packages that requirements bring, and those that these bring; `without` is left out."""
    found: set[str] = set()
    left = [(Requirement(line), {""}) for line in lines]
    while left:
        wanted, extras = left.pop()
        name = canonicalize_name(wanted.name)
        needed = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)
        if needed and name not in without and (name not in found or wanted.extras):
            found.add(name)
            left += [(Requirement(line), {"", *wanted.extras}) for line in distribution(name).requires or []]
    return found


def top_level(name: str) -> set[Path]:
    """Files and folders of a package, right below where packages are installed."""
    found = distribution(name)
    names = {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}
    return {Path(str(found.locate_file(name))) for name in names}
