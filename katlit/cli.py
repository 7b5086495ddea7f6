"""The `katlit` command: finds the subcommand, turns what a user can mend into one line and an exit status.

Lightning, transformers and all they pull take seconds to import, so this file imports none of them:
`katlit --help` answers at once, and a subcommand loads only what it needs.
"""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from katlit.commands import quiet
from katlit.commands.overview import COMMANDS, TRAINER_COMMANDS, help_text
from katlit.errors import UserError

# Commands that parse their options by themselves.
_PROGRAMS = {
    "run": "katlit.commands.recipe.command",
    "init": "katlit.commands.init",
    "help": "katlit.commands.help",
    "configs": "katlit.commands.configs",
    "consolidate": "katlit.commands.consolidate",
    "replay": "katlit.commands.replay.command",
    "trace": "katlit.commands.trace",
    "card": "katlit.commands.card",
    "report": "katlit.commands.report",
    "chat": "katlit.commands.chat",
    "serve": "katlit.commands.serve",
}

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # what a shell reports after ctrl-C: 128 + SIGINT
EXIT_TERMINATED = 143  # what schedulers expect of a run that they ended: 128 + SIGTERM

# What the file system refuses and a user can mend; any other OSError is our fault and keeps its traceback.
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MENDABLE = _FULL | {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_NO_TEMPORARY = "No usable temporary directory"  # Python's words


def _dispatch(arguments: Sequence[str]) -> int:
    """Run one command line; raises whatever goes wrong."""
    choice = f"choose one of {', '.join(COMMANDS)}, or see katlit --help"
    if not arguments:
        raise UserError(f"no command given; {choice}")
    command = arguments[0]
    if command in ("-h", "--help") or list(arguments) == ["help"]:
        sys.stdout.write(help_text() + "\n")
        return 0
    if command not in COMMANDS:
        raise UserError(f"unknown command {command!r}; {choice}")
    command, arguments = _asked_for_help(arguments)
    if command in _PROGRAMS:
        return import_module(_PROGRAMS[command]).main(arguments[1:])
    if command == "plan":
        from katlit.commands.plan.command import main as plan

        return plan(arguments)
    from katlit.commands.trainer import run

    run(arguments)
    return 0


def _asked_for_help(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command line that answers: a trainer's command has a page, each other one explains itself."""
    command, *words = arguments
    if command in TRAINER_COMMANDS and words in (["-h"], ["--help"]):
        command, words = "help", [command]
    elif command == "help" and words[0] in COMMANDS and words[0] not in TRAINER_COMMANDS:
        command, words = words[0], ["--help"]
    return command, [command, *words]


def _exit_status(stop: SystemExit) -> int:
    """Status of a SystemExit; Lightning answers ctrl-C by a graceful shutdown and `sys.exit(1)`."""
    if isinstance(stop.__context__, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if type(stop).__name__ == "SIGTERMException":  # Lightning's, which is not to be imported here
        return EXIT_TERMINATED
    if stop.code is None:
        return 0
    return stop.code if isinstance(stop.code, int) else 1


def find_own_classes() -> None:
    """Let Python import from the working directory, but only what is not installed.

    `python -m` puts the directory first, where a folder `datasets/` of the user's would hide the library.
    """
    here = str(Path.cwd())
    if sys.path[0] in ("", here):
        del sys.path[0]
    if here not in sys.path:
        sys.path.append(here)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `katlit`; the entry point of the console script, and callable from Python.

    Args:
        arguments: What follows `katlit` on the command line; the process's own arguments by default.

    Returns:
        The exit status: 0 done, 2 the user can mend it (one line on stderr), 130 interrupted, 143 terminated.
    """
    # OpenMP reads it as torch is loaded. By its own default, threads that wait spin, which costs a small
    # model most of its speed wherever another program wants a core (docs/hardware.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if arguments is None:
        arguments = sys.argv[1:]
        find_own_classes()
    arguments = quiet.without_verbosity(arguments)
    quiet.quieten_native()
    try:
        return _dispatch(arguments)
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in _MENDABLE and _NO_TEMPORARY not in str(error):
            raise
        temporary = os.environ.get("TMPDIR", "the system's own")
        place = error.filename or f"the output folder, or the temporary one (TMPDIR: {temporary})"
        room = "make room there, or " if error.errno in _FULL else ""
        message = f"{place}: {error.strerror}; {room}choose a place that can be written"
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as stop:
        return _exit_status(stop)
    sys.stderr.write(f"katlit: error: {' '.join(message.split())}\n")
    return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
