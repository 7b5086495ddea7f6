"""Settings files as the command line names them: by path, or by name among those that katlit installs."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

import yaml

from katlit.errors import UserError

INSTALLED = Path(str(files("katlit.configs")))  # `configs/` at the top of the repository
_CLOSE = 0.5  # `qwen.yaml` for `backbone/qwen2.5-7b.yaml`


def installed_names() -> list[str]:
    """Names of the installed settings files, such as `stage/distill.yaml`."""
    return sorted(path.relative_to(INSTALLED).as_posix() for path in INSTALLED.rglob("*.yaml"))


def settings_file(name: str) -> Path:
    """Find a settings file by its path, else among the installed ones, with or without `configs/` in front.

    Raises:
        UserError: where there is none, or it is not YAML.
    """
    path = _find(name)
    try:
        yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not YAML: {error}") from error
    return path


def _find(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    short = name.removeprefix("configs/")
    names = installed_names()
    if short in names:
        return INSTALLED / short
    close = get_close_matches("/".join(Path(short).parts[-2:]), names, cutoff=_CLOSE)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(f"settings file {name!r} does not exist; {meant}`katlit configs` lists what is there")


def with_paths(arguments: Sequence[str]) -> list[str]:
    """The command line with each settings file by the path where it is.

    Raises:
        UserError: where one is missing or not YAML; jsonargparse would not name it among several.
    """
    found: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        joined = re.fullmatch("(-c=?|--config=)(.+)", word)
        if before in ("-c", "--config"):
            found.append(str(settings_file(word)))
        elif joined:
            found.append(joined[1] + str(settings_file(joined[2])))
        else:
            found.append(word)
    return found
