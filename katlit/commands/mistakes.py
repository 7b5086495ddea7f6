"""What a wrong setting comes to: one line with its key, its value, and what to do."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import add_instantiator
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from katlit.errors import UserError, require

# What Lightning and others raise for a wrong value; of a class of ours these are bugs, with a traceback.
_REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)
# Those of configs/strategy/ that Lightning does not know by these names.
OUR_STRATEGIES = ("cpu", "deepspeed_z1", "deepspeed_z2", "deepspeed_z3", "fsdp2", "fsdp2_tp", "single")
_NO_REASON = ("Does not validate", "Subtypes:", "Errors:", "Expected a path but", "Given value")


class Refusal:
    """The class that could not be built from its settings.

    jsonargparse wraps what a constructor raises, of a union even the error of another member. So this one is
    called to build each class, and keeps the first error as it is.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.owner: type = object
        self.arguments: dict[str, Any] = {}

    def build(self, owner: type, /, *positional: Any, **arguments: Any) -> Any:
        """Call the constructor."""
        try:
            return owner(*positional, **arguments)
        except Exception as error:
            if self.error is None:
                self.error, self.owner, self.arguments = error, owner, arguments
            raise

    def explain(self, settings: dict[str, Any]) -> UserError | None:
        """What to tell the user; None for what is no mistake of theirs."""
        nodes = dict(_nodes(settings))
        name = self.owner.__name__
        found = [path for path, node in nodes.items() if self.arguments and _holds(node, self.arguments)]
        found += [path for path, node in nodes.items() if str(node.get("class_path")).endswith(f".{name}")]
        place = next(iter(found), name)
        if isinstance(self.error, UserError):
            return UserError(_with_place(str(self.error), place, self.arguments))
        ours = self.owner.__module__.startswith("katlit.")
        if ours or not isinstance(self.error, _REFUSALS):
            return None
        owner = place.removesuffix(".init_args")
        return UserError(f"{owner} ({name}): {self.error or type(self.error).__name__}")


def watch() -> Refusal:
    """Keep from now on what a constructor refuses."""
    refusal = Refusal()
    add_instantiator(refusal.build, object, subclasses=True)
    return refusal


def _nodes(settings: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All sections of the settings, with their keys."""
    if isinstance(settings, dict):
        yield path, settings
        for name, value in settings.items():
            yield from _nodes(value, f"{path}.{name}" if path else str(name))
    elif isinstance(settings, list):
        for number, value in enumerate(settings):
            yield from _nodes(value, f"{path}[{number}]")


def _holds(section: dict[str, Any], arguments: dict[str, Any]) -> bool:
    """Whether a section is what a class was built from; values that were built themselves differ."""
    plain = (str, int, float, bool, type(None))
    return section.keys() == arguments.keys() and all(
        section[name] == value for name, value in arguments.items() if isinstance(value, plain)
    )


def _with_place(message: str, place: str, arguments: dict[str, Any]) -> str:
    """The message with the whole key in front, which a constructor cannot know."""
    named = re.match(r"(?:[\w.]+\.)?(\w+): ", message)
    if named and named.group(1) in arguments:
        return f"{place}.{message[named.start(1) :]}"
    owner = place.removesuffix(".init_args")
    return message if message.startswith(f"{owner}: ") else f"{owner}: {message}"


def of_trainer(error: Exception, settings: dict[str, Any]) -> UserError:
    """What Lightning's Trainer refuses, with the key that its message names.

    Args:
        error: What its constructor raised.
        settings: Its arguments.
    """
    strategy = settings.get("strategy")
    if strategy in OUR_STRATEGIES and "strategy" in str(error):
        return UserError(
            f"trainer.strategy: {strategy!r} is a file of ours, no name of Lightning's; "
            f"use -c configs/strategy/{strategy}.yaml"
        )
    words = re.findall(r"\w+", str(error))
    names = [word for word in words if word in settings]
    names += [name for name, value in settings.items() if isinstance(value, str) and value in words]
    key = f"trainer.{names[0]}: {settings[names[0]]!r}; " if names else "trainer: "
    return UserError(f"{key}{error}")


def check_trainer(settings: dict[str, Any]) -> None:
    """Refuse what Lightning's Trainer takes without a word and cannot use.

    Args:
        settings: Its arguments.

    Raises:
        UserError: naming the first.
    """
    parts, clip = settings["accumulate_grad_batches"], settings["gradient_clip_val"]
    require(parts >= 1, "trainer.accumulate_grad_batches", parts, "at least 1")
    require(clip is None or clip >= 0, "trainer.gradient_clip_val", clip, "0 or more, or null")


def of_interpolation(error: Exception, command: str) -> UserError:
    """A `${…}` that names nothing."""
    message = str(error)
    key = re.search(r"full_key: (\S+)", message)
    missing = re.search(r"resolved to '(.*?)'", message)
    if key is None or missing is None:
        return UserError(message)
    found, asked = (one.group(1).removeprefix(f"{command}.") for one in (key, missing))
    return UserError(
        f"{found}: names ${{{asked}}}, which no setting has; give the whole key of one that is set"
    )


def of_parser(message: str, arguments: Sequence[str]) -> UserError:
    """What jsonargparse says of the command line `arguments`, in short."""
    if message.startswith("Unexpected config"):
        name = _without_keys(arguments)
        return UserError(f"{name} has no keys; give sections such as trainer, or leave it out")
    return UserError(concise(message))


def _without_keys(arguments: Sequence[str]) -> str:
    """The settings file that is empty, or no mapping."""
    given = [name for option, name in pairwise(arguments) if option in ("-c", "--config")]
    for path in filter(Path.is_file, map(Path, given)):
        if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict):
            return f"settings file {str(path)!r}"
    return "a settings file"


def concise(message: str) -> str:
    """Key, class and reason; jsonargparse also lists every type that was tried, and the whole value."""
    keys: list[str] = []
    owner = ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        key = re.match(r'Parser key "(.*?)":(.*)', text)
        problem = re.match("Problem with given class_path '(.*)':", text)
        if key:
            keys.append(key.group(1))
            text = key.group(2).strip()
        elif problem:
            owner = f" ({problem.group(1)})"
            continue
        if keys and text and not text.startswith(_NO_REASON):
            return f"{'.init_args.'.join(keys)}: {_reason(text, message)}{owner}"
    return message


def _reason(first: str, message: str) -> str:
    """The first reason; where a value is of none of several types, all of them."""
    value = re.search(r"Given value: (.*)", message)
    if not first.startswith("Expected a ") or "Got value" in first or value is None:
        return _spelled_out(first)
    wanted = re.findall(r"^\s*- Expected a (.*)", message, re.MULTILINE)
    if any(text.startswith("dot import path string") for text in wanted):
        wanted = ["the full name of a class, such as those that the key's --help lists"]
    given = re.sub(r"^NestedArg\(key=.*, val=(.*)\)$", r"\1", value.group(1))
    return f"Expected {' or '.join(map(_spelled_out, wanted))}. Got value: {given}"


def _spelled_out(text: str) -> str:
    """Types as a user would name them."""
    text = text.replace("Expected a ", "Expected ")
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    return re.sub(r"<class '(.*?)'>", r"\1", text).replace("NoneType", "null")


def require_null(settings: dict[str, Any], arguments: Sequence[str]) -> None:
    """Refuse `--key=null` where jsonargparse has made a text of it.

    Raises:
        UserError: naming the key.
    """
    names = {path.replace(".init_args", "") for path, value in _leaves(settings) if value == "None"}
    options = [word.removesuffix("=null") for word in arguments if word.endswith("=null")]
    options += [word for word, value in pairwise(arguments) if value == "null"]
    for option in options:
        if option.removeprefix("--").replace(".init_args", "") in names:
            raise UserError(
                f"{option}: null on the command line is read as the text 'None'; write null into a YAML file"
            )


def _leaves(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for path, section in _nodes(settings):
        for name, value in section.items():
            yield f"{path}.{name}" if path else name, value
