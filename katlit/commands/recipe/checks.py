"""What can be known of a recipe's steps without running them: mistakes in settings, and memory."""

import contextlib
import io
from collections.abc import Mapping
from typing import Any

from katlit.commands.plan.command import main as plan
from katlit.commands.recipe.recipe import Recipe
from katlit.commands.recipe.steps import BACKBONE, Step
from katlit.commands.trainer import run
from katlit.errors import UserError


def mistakes(recipe: Recipe, step: Step) -> list[str]:
    """All mistakes in the settings of a step that are found without building anything."""
    words, found = list(step.words), []
    while (message := _refused([*words, "--print_config"])) is not None:
        key, path = _meant(recipe, step, message)
        found.append(f"{recipe.places.of(path)}: {step.name}: {message}")
        rest = [word for word in words if not word.startswith(f"--{key}=")]
        if key is None or len(rest) == len(words):
            break
        words = rest
    return found


def _refused(words: list[str]) -> str | None:
    """Why a command line is refused; None where it is not."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            run(words)
    except UserError as error:
        return str(error)
    except SystemExit as done:  # the settings were printed
        if done.code:
            return f"status {done.code}"
    return None


def _meant(recipe: Recipe, step: Step, message: str) -> tuple[str | None, tuple[str, ...]]:
    """The key of the recipe that a message is about, and where it stands."""
    sections: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), recipe.common.set)]
    own = recipe.evaluation if step.section == ("evaluation",) else recipe.stages[step.section[-1]]
    if own is not None:
        sections.insert(0, (step.section, own.set))
    named = [
        (key, (*section, "set", key)) for section, keys in sections for key in keys if _names(message, key)
    ]
    return max(named, key=lambda one: len(one[0]), default=(None, step.section))


def _names(message: str, key: str) -> bool:
    """Whether a message names a key, or the section that it is in and its last part."""
    section, _, last = key.rpartition(".")
    return key in message or (section in message and last in message)


def memory(recipe: Recipe, step: Step) -> str:
    """What `katlit plan` says of a step that trains, on the model that the recipe starts from."""
    start = f"--{BACKBONE}.init_from="
    words = [word for word in step.words[1:] if not word.startswith(start)]
    if len(words) < len(step.words) - 1:
        words.append(f"{start}{recipe.model}")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            plan(["plan", *words])
    except UserError as error:
        return f"cannot be planned: {error}"
    return printed.getvalue().strip()
