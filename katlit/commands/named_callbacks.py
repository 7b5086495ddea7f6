"""`callbacks`, a section of settings that changes fields of callbacks by their names.

A list of settings can be replaced and added to, but no field of one of its elements changed. So
`callbacks: {RolloutSampler: {samples: 16}}` in a later file does, or `--callbacks.RolloutSampler.samples=16`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from omegaconf import OmegaConf

from katlit.commands.known_names import hint
from katlit.errors import UserError

SECTION = "callbacks"
_OF_CLASS = ("class_path", "init_args", "dict_kwargs")


def split(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Part a command line into what the parser takes, and what its words and files say of callbacks.

    Args:
        arguments: The command line, each settings file by its path.
    """
    rest: list[str] = []
    changes: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for before, word in zip(["", *arguments], arguments, strict=False):
        joined = re.fullmatch("(?:-c=?|--config=)(.+)", word)
        if before in ("-c", "--config"):
            changes = _merged(changes, _of_file(word))
        elif joined:
            changes = _merged(changes, _of_file(joined[1]))
        if word.startswith((f"--{SECTION}.", f"--{SECTION}=")):
            words = _merged(words, _of_word(word))
        else:
            rest.append(word)
    return rest, _merged(changes, words)


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """The word that sets the list of callbacks, with changes to some.

    Args:
        settings: All settings as they resolve without the changes.
        changes: Arguments by the names of classes.

    Raises:
        UserError: where no callback has that name.
    """
    callbacks = settings["trainer"]["callbacks"] or []
    found = [dict(one) for one in (callbacks if isinstance(callbacks, list) else [callbacks])]
    for name, values in _resolved(changes, settings).items():
        named = [one for one in found if str(one["class_path"]).rpartition(".")[2] == name]
        if not named:
            known = [str(one["class_path"]).rpartition(".")[2] for one in found]
            raise UserError(f"{SECTION}.{name}: trainer.callbacks has no such one; {hint(name, known)}")
        for one in named:
            one["init_args"] = _merged(one.get("init_args") or {}, values)
    return f"--trainer.callbacks={json.dumps(found, default=str)}"


def _resolved(changes: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The changes with the values of what they name, such as `${seed_everything}`."""
    plain = json.loads(json.dumps(settings, default=str))
    both = OmegaConf.create(plain | {SECTION: dict(changes)})
    resolved = OmegaConf.to_container(both[SECTION], resolve=True)
    return {str(name): values for name, values in resolved.items()} if isinstance(resolved, dict) else {}


def _of_file(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 (a path of the command line)
        values = yaml.safe_load(file)
    return _section(values.get(SECTION) if isinstance(values, dict) else None, f" in {path}")


def _section(section: Any, where: str = "") -> dict[str, Any]:
    """The whole section, checked."""
    if section is not None and not (
        isinstance(section, dict) and all(isinstance(one, dict) for one in section.values())
    ):
        raise UserError(f"{SECTION}: {section!r}{where} is no mapping of names to settings")
    return section or {}


def _of_word(word: str) -> dict[str, Any]:
    key, equals, text = word.partition("=")
    name, *parts = key.removeprefix(f"--{SECTION}.").split(".")
    whole = key == f"--{SECTION}"
    if not (whole or (equals and parts)):
        raise UserError(f"{word}: give --{SECTION}.NAME.KEY=VALUE, such as --{SECTION}.ModeWatch.patience=3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{key.removeprefix('--')}: {text!r} is not YAML") from error
    if whole:
        return _section(value)
    for part in reversed(parts):
        value = {part: value}
    return {name: value}


def _merged(old: Any, new: Any) -> Any:
    """Settings with others over them; of a class its arguments, `init_args` said or not."""
    if isinstance(old, str) and "." in old and isinstance(new, dict):
        old = {"class_path": old}
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    if "class_path" in new and new["class_path"] != old.get("class_path"):
        return new
    if "class_path" in old and not new.keys() & set(_OF_CLASS):
        new = {"init_args": new}
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}
