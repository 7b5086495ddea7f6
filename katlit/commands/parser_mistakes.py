"""What jsonargparse refuses of the settings comes to: one line with its key, its value, and what to do."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from katlit.commands.known_names import (
    class_at,
    class_hint,
    group_at,
    hint,
    key_hint,
    keys_of,
    sections,
    wanted_at,
)
from katlit.errors import UserError

_NO_REASON = ("Does not validate", "Subtypes:", "Errors:", "Expected a path but", "Given value")
_UNKNOWN_KEY = (
    r"(?:Group '(?P<group>.*)' does not accept option|Option) '(?P<key>[^']*)'"
    r"|unrecognized arguments: --(?P<section>\w+)\.(?P<name>\w+)"
)
_UNKNOWN_CLASS = re.compile(
    r"module '.*' has no attribute|No module named|does not correspond to a subclass|the full name of a class"
    r"|is abstract$"
)
_ENTRY = re.compile(
    r"Subtypes: \[[^\n]*\b(?:Mapping|dict)\[(?:(?!Subtypes).)*?"
    r"Given value: NestedArg\(key='(?P<entry>.*?)'",
    re.DOTALL,
)
_REQUIRED = "the following arguments are required: "


@dataclass(frozen=True, slots=True)
class _Complaint:
    """A message of jsonargparse in its parts."""

    keys: list[str]  # outermost first, each below the `init_args` of the owner of the one before
    owners: list[str]  # classes, by their full names
    reason: str
    given: str  # value of the setting

    @property
    def place(self) -> str:
        return ".init_args.".join(self.keys)


def of_parser(message: str, arguments: Sequence[str], keys: Collection[str] = ()) -> UserError:
    """What jsonargparse says of a command line, in short.

    Args:
        message: The message, perhaps of many lines.
        arguments: The command line.
        keys: Keys that the command knows.
    """
    if message.startswith("Unexpected config"):
        name = _without_keys(arguments)
        return UserError(f"{name} has no keys; give sections such as trainer, or leave it out")
    if unknown := re.match(r"unrecognized arguments: (\S+)", message):
        return UserError(f"{message}; {_nearest_key(unknown.group(1), keys)}")
    if unknown := re.match(r"(?:Group '(.*)' does not accept option|Option) '(.*?)'", message):
        section, key = unknown.groups()
        whole = f"{section}.{key}" if section else key
        return UserError(f"{whole}: no such key; {_nearest_key(f'--{whole}', keys)}")
    if unknown := re.match(r"Subcommand '(.*)' does not accept option '(.*)'", message):
        command, key = unknown.groups()
        return UserError(f"{key}: katlit {command} has no such key; {_nearest_key(key, keys)}")
    if message.startswith(_REQUIRED):
        names = ", ".join(name.partition(".")[2] for name in message.removeprefix(_REQUIRED).split(", "))
        return UserError(
            f"{names}: no value is given; add the files of a stage, such as -c base.yaml -c "
            "stage/distill.yaml (`katlit configs` lists them)"
        )
    complaint = _complaint(message)
    if complaint is None:
        return UserError(message)
    option = _nulls(arguments).get(_short(complaint.place))
    return UserError(_told(complaint)) if option is None else _of_null(option)


def _nearest_key(given: str, keys: Collection[str]) -> str:
    """What to give instead of a key, or of an option of the command line."""
    if not given.startswith("--") and "." not in given:
        return "an option begins with --"
    key = given.removeprefix("--").partition("=")[0]
    section, _, name = key.partition(".")
    below = [known.partition(".")[2] for known in keys if known.startswith(f"{section}.")]
    if below:
        return f"{hint(name, below)} of {section}"
    return hint(section, {known.partition(".")[0] for known in keys})


def _without_keys(arguments: Sequence[str]) -> str:
    """The settings file that is empty, or no mapping."""
    given = [name for option, name in pairwise(arguments) if option in ("-c", "--config")]
    for path in filter(Path.is_file, map(Path, given)):
        if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict):
            return f"settings file {str(path)!r}"
    return "a settings file"


def _complaint(message: str) -> _Complaint | None:
    """Keys, classes and reason; jsonargparse also lists every type that was tried, and the whole value."""
    keys: list[str] = []
    owners: list[str] = []
    lines = message.splitlines()
    for number, line in enumerate(lines, start=1):
        if _of_other_type(line, lines[number:]):
            continue
        text = line.strip().removeprefix("- ")
        key = re.match(r'Parser key "(.*?)":(.*)', text)
        problem = re.match("Problem with given class_path '(.*)':", text)
        if key:
            keys.append(key.group(1))
            text = key.group(2).strip()
        elif problem:
            owners.append(problem.group(1))
            continue
        if keys and text and not text.startswith(_NO_REASON):
            return _Complaint(keys, owners, _reason(text, message), _given(message))
    return None


def _of_other_type(line: str, later: Sequence[str]) -> bool:
    """Whether a line refuses a type of a union, of which a later type, a class, has more to say."""
    indent, bare, _ = line.partition("- Expected a ")
    return bool(bare) and any(text.startswith(f"{indent}- Problem with given class_path") for text in later)


def _told(complaint: _Complaint) -> str:
    """The complaint in one line, with what to give where a name is not known."""
    place, reason, owners = complaint.place, complaint.reason, complaint.owners
    owner = class_at(owners[-1]) if owners else None
    option = re.match(_UNKNOWN_KEY, reason)
    unknown = re.match(r"unrecognized arguments: --(\w+)\.", reason)
    if unknown and owner is not None and unknown[1] not in keys_of(owner):
        key = unknown[1]
        return f"{place}.init_args.{key}: {owner.__name__} has no such key; {key_hint(key, owner)}"
    if option and owner is not None:
        group, key = option["group"] or option["section"], option["key"] or option["name"]
        section = group_at(owner, group) if group else owner
        if section is not None:
            place = f"{place}.init_args.{group}.{key}" if group else f"{place}.init_args.{key}"
            return f"{place}: {section.__name__} has no such key; {key_hint(key, section)}"
    if reason.startswith(_REQUIRED):
        names = reason.removeprefix(_REQUIRED).split(", ")
        below = f"{place}.init_args" if len(owners) == len(complaint.keys) else place
        keys = ", ".join(f"{below}.{name}" for name in names)
        return f"{keys}: no value is given; {owners[-1] if owners else place} needs one"
    if _UNKNOWN_CLASS.search(reason):
        named = len(owners) == len(complaint.keys)
        given = owners[-1] if named else complaint.given.strip("'")
        return f"{place}: {reason}; {class_hint(given, wanted_at(complaint.keys, owners))}"
    return f"{place}: {reason}" + (f" ({owners[-1]})" if owners else "")


def _given(message: str) -> str:
    """The value that was refused."""
    value = re.search(r"Given value: (.*)", message)
    return re.sub(r"^NestedArg\(key=.*, val=(.*)\)$", r"\1", value.group(1)) if value else ""


def _reason(first: str, message: str) -> str:
    """The first reason; where a value is of none of several types, all of them."""
    given = _given(message)
    if entry := _ENTRY.search(message):
        name = entry["entry"]
        return f"{name!r} is in a mapping, which the command line cannot set; write it into a YAML file"
    if not first.startswith("Expected a ") or "Got value" in first or not given:
        return _spelled_out(first)
    wanted = re.findall(r"^\s*- Expected a (.*)", message, re.MULTILINE)
    if any(text.startswith("dot import path string") for text in wanted):
        wanted = ["the full name of a class, such as those that the key's --help lists"]
    return f"Expected {' or '.join(dict.fromkeys(map(_spelled_out, wanted)))}. Got value: {given}"


def _spelled_out(text: str) -> str:
    """Types as a user would name them."""
    text = text.replace("Expected a ", "Expected ")
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    return re.sub(r"<class '(.*?)'>", r"\1", text).replace("NoneType", "null")


def require_known(settings: dict[str, Any], arguments: Sequence[str]) -> None:
    """Refuse an option of the command line that jsonargparse dropped without a word.

    It does so with an unknown key of a section that has no `class_path`.

    Args:
        settings: Resolved settings of the command.
        arguments: The command line.

    Raises:
        UserError: naming the nearest key.
    """
    found = {_short(path): section for path, section in sections(settings)}
    known = {_short(path) for path, _ in _leaves(settings)} | found.keys()
    for word in arguments:
        option = word.partition("=")[0].removeprefix("--").removesuffix("+")
        section, _, key = _short(option).rpartition(".")
        unknown = section in found and _short(option) not in known and key != "help"
        if word.startswith("--") and unknown:
            raise UserError(f"{option}: no such key; {hint(key, found[section])}")


def require_null(settings: dict[str, Any], arguments: Sequence[str]) -> None:
    """Refuse `--key=null` where jsonargparse has made a text of it.

    Raises:
        UserError: naming the key.
    """
    nulls = _nulls(arguments)
    for path, value in _leaves(settings):
        if value == "None" and _short(path) in nulls:
            raise _of_null(nulls[_short(path)])


def _nulls(arguments: Sequence[str]) -> dict[str, str]:
    """The options that are null on the command line, by their short keys."""
    options = [word.removesuffix("=null") for word in arguments if word.endswith("=null")]
    options += [word for word, value in pairwise(arguments) if value == "null"]
    return {_short(option.removeprefix("--")): option for option in options}


def _of_null(option: str) -> UserError:
    return UserError(
        f"{option}: null on the command line is read as the text 'None'; write null into a YAML file"
    )


def _short(path: str) -> str:
    """A key as it may be written on the command line, where `init_args` and places in lists are left out."""
    return re.sub(r"\.init_args\b|\[\d+\]", "", path)


def _leaves(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for path, section in sections(settings):
        for name, value in section.items():
            yield f"{path}.{name}" if path else name, value
