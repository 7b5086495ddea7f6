"""What a class refuses of its settings comes to: one line with its key, its value, and what to do."""

import os
import re
from typing import Any, Literal

import torch
from jsonargparse import add_instantiator
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from katlit.commands.known_names import sections
from katlit.errors import UserError, require

# What Lightning and others raise for a wrong value; of a class of ours these are bugs, with a traceback.
_REFUSALS = (ValueError, TypeError, ImportError, MisconfigurationException)
# Those of configs/strategy/ that Lightning does not know by these names.
OUR_STRATEGIES = ("cpu", "deepspeed_z1", "deepspeed_z2", "deepspeed_z3", "fsdp2", "fsdp2_tp", "single")


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
        nodes = dict(sections(settings))
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
    grouped = re.match(r"(\w+)\.[\w.]+: ", message)
    if grouped and grouped.group(1) in arguments:
        return f"{place}.{message}"
    owner = place.removesuffix(".init_args")
    head, _, rest = message.partition(": ")
    own = f".{owner}".replace(".init_args", "").endswith(f".{head}".replace(".init_args", ""))
    return f"{owner}: {rest if own else message}"


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
    _check_devices(settings["accelerator"], settings["devices"])


def _check_devices(accelerator: Any, devices: Any) -> None:
    """Refuse more devices than there are; Lightning starts any number of processes on the CPU."""
    kind = _accelerator(accelerator)
    if kind is None:
        return
    number = torch.cuda.device_count() if kind == "gpu" else os.cpu_count() or 1
    require(number > 0, "trainer.accelerator", accelerator, "cpu: this machine has no gpu that torch can use")
    numbers = [int(word) for word in re.findall(r"-?\d+", str(devices))]
    among = isinstance(devices, list) or "," in str(devices)  # then these are places, from 0
    what = "cores" if kind == "cpu" else "gpus"
    require(
        max(numbers, default=0) + among <= number,
        "trainer.devices",
        devices,
        f"places below {number}" if among else f"{number} at most, the {what} of this machine",
    )


def _accelerator(name: Any) -> Literal["cpu", "gpu"] | None:
    """What an accelerator comes to; None for those of other makes."""
    if name == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    if name in ("gpu", "cuda"):
        return "gpu"
    return "cpu" if name == "cpu" else None


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
