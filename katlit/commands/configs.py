"""`katlit configs`: lists the settings files that katlit installs, or copies them, to be read and changed."""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from katlit.commands.settings_files import INSTALLED, installed_names
from katlit.errors import UserError
from katlit.output import require_writable


def listing() -> str:
    """The installed settings files, each with the first line of its comment."""
    names = installed_names()
    width = max(map(len, names))
    return "".join(f"{name:<{width}}  {_purpose(INSTALLED / name)}\n" for name in names)


def _purpose(path: Path) -> str:
    first, _, _ = path.read_text(encoding="utf-8").partition("\n")
    return first.removeprefix("#").strip()


def copy_to(directory: Path) -> None:
    """Copy the installed settings files, all or none.

    Args:
        directory: Made if need be.

    Raises:
        UserError: where it cannot be written, or a file is in the way.
    """
    names = installed_names()
    folders = sorted({(directory / name).parent for name in names})
    taken = [folder for folder in folders if os.path.lexists(folder) and not folder.is_dir()]
    taken += [directory / name for name in names if os.path.lexists(directory / name)]
    if taken:
        raise UserError(f"{taken[0]} exists already; choose another folder")
    for folder in folders:
        require_writable(folder, "DIR")
    for name in names:
        shutil.copyfile(INSTALLED / name, directory / name)
    sys.stdout.write(f"{len(names)} settings files are in {directory}\n")


def main(arguments: Sequence[str]) -> int:
    """List or copy."""
    parser = argparse.ArgumentParser(prog="katlit configs", description=__doc__)
    copy = parser.add_subparsers(dest="action").add_parser("copy", help="copy them into a folder")
    copy.add_argument("directory", metavar="DIR", type=Path)
    given = parser.parse_args(arguments)
    if given.action == "copy":
        copy_to(given.directory)
    else:
        sys.stdout.write(listing())
    return 0
