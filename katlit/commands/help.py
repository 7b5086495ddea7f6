"""`katlit help`: what a command takes, and the settings of any class, by its short name."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from textwrap import fill

from katlit.commands.class_catalogue import KINDS, class_names, entries, paths_of
from katlit.commands.overview import COMMANDS, TRAINER_COMMANDS
from katlit.commands.settings_files import installed_names
from katlit.errors import UserError

_TRAINER = "trainer"
_WIDTH = 120


def of_command(command: str) -> str:
    """What `katlit fit --help` prints: files to begin with, sections, classes, and where to ask further."""
    return "\n".join(
        [
            f"usage: katlit {command} -c FILE [-c FILE ...] [--KEY=VALUE ...]",
            "",
            f"{TRAINER_COMMANDS[command].capitalize()}.",
            "",
            "Settings are YAML; later files win, the command line last. A file is named by its path,",
            "or is one of these, which `katlit configs` explains and `katlit configs copy DIR` copies:",
            *_files(),
            "",
            "Sections of the settings:",
            "  model             the stage: its class_path and its settings, init_args",
            "  data              what it is trained on, likewise",
            "  trainer           Lightning's: max_steps, precision, strategy, devices, callbacks, logger",
            "  checkpoint        when checkpoints are written, and how many are kept",
            "  ckpt_path         go on from this checkpoint: a path, last, or auto (the newest, if any)",
            "  seed_everything   one seed for all that is random",
            "",
            "Classes that settings may name; a full name is katlit., the package in brackets, and the name:",
            *_classes(),
            "",
            "The settings of a class, with defaults:   katlit help StepSRPO",
            "Every key of Lightning's trainer:         katlit help trainer",
            f"The settings as they resolve:             katlit {command} -c ... --print_config",
        ]
    )


def _files() -> list[str]:
    folders: dict[str, list[str]] = {}
    for name in installed_names():
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append(file.removesuffix(".yaml"))
    return [
        fill(
            f"{folder + '/' if folder else '(top)':<10} {' '.join(files)}",
            _WIDTH, initial_indent="  ", subsequent_indent=" " * 13,
        )
        for folder, files in folders.items()
    ]  # fmt: skip


def _classes() -> list[str]:
    lines = []
    for kind in KINDS:
        lines.append(f"  {kind.title} [{kind.package}], for {kind.key}")
        lines += [
            fill(
                f"{entry.path.rpartition('.')[2]:<18}  {entry.summary}",
                _WIDTH, initial_indent="    ", subsequent_indent=" " * 24,
            )
            for entry in entries(kind)
        ]  # fmt: skip
    return lines


def of_class(name: str) -> str:
    """The page of a class.

    Args:
        name: Its name, or its full name, which may be of a class of the user's own.

    Raises:
        UserError: where there is none, with the nearest.
    """
    from katlit.commands.class_page import page
    from katlit.commands.known_names import class_at

    for path in [name] if "." in name else paths_of(name):
        if (owner := class_at(path)) is not None:
            return page(owner, path)
    by_lower = {known.lower(): known for known in class_names() | set(COMMANDS) | {_TRAINER}}
    near = get_close_matches(name.rpartition(".")[2].lower(), by_lower, n=1)
    meant = f"the nearest is {by_lower[near[0]]}" if near else "`katlit fit --help` lists the classes"
    raise UserError(f"help: {name!r} is neither a command nor a class; {meant}")


def main(arguments: Sequence[str]) -> int:
    """Print a page."""
    parser = argparse.ArgumentParser(prog="katlit help", description=__doc__)
    parser.add_argument("name", help="a command, a class such as StepSRPO, or trainer")
    name = parser.parse_args(arguments).name
    if name == _TRAINER:
        from katlit.commands.trainer import run

        run(["fit", "--help"])
    else:
        sys.stdout.write((of_command(name) if name in TRAINER_COMMANDS else of_class(name)) + "\n")
    return 0
