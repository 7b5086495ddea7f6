"""Reads a recipe: all of its mistakes at once, each with its line."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from katlit.commands.known_names import hint
from katlit.commands.recipe.places import Places
from katlit.commands.recipe.recipe import Overlay, Recipe
from katlit.commands.recipe.steps import LABELLED, OWNED, STAGES
from katlit.commands.settings_files import settings_file
from katlit.errors import UserError, first_line

_PARTS = ("settings", "set", "launch")
_LABEL = "label"  # inside a stage that labels
_KEYS = ("name", "experiment", "output", "seed", "memory", "model", "teacher", "prompts", "heldout", *_PARTS,
         "evaluation", "evaluate_base", "stages")  # fmt: skip


def read_recipe(path: Path, changes: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """Read a recipe, and check all that it names.

    Args:
        path: The file.
        changes: `key=value` of the command line, which win.

    Returns:
        The recipe, and its mistakes, each with its line; what is wrong is left out of the recipe.

    Raises:
        UserError: where it cannot be read at all.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
    values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a mapping with the keys {', '.join(_KEYS)}")
    for change in changes:
        _change(values, change)
    reader = _Reader(path.stem, Places(str(path), text))
    return reader.recipe(values), reader.mistakes


def _change(values: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not (key and equals):
        raise UserError(
            f"--set {change!r}: give KEY=VALUE, such as seed=2 or stages.distill.set.trainer.max_steps=10"
        )
    parts = key.split(".")
    if "set" in parts:  # what follows is a whole key of the settings
        inside = parts.index("set") + 1
        parts = [*parts[:inside], ".".join(parts[inside:])]
    section = values
    for part in parts[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise UserError(f"--set {change!r}: {part} is no section")
    try:
        section[parts[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {change!r}: the value is not YAML ({first_line(error)})") from error


class _Reader:
    """Turns values into a recipe and keeps what is wrong with them."""

    def __init__(self, name: str, places: Places) -> None:
        self._name = name
        self._places = places
        self.mistakes: list[str] = []

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        self._known(values, _KEYS, ())
        name = self._text(values, "name", self._name)
        stages = self._mapping(values.get("stages"), ("stages",))
        if not stages:
            self._say(("stages",), f"no stages; give some of {', '.join(STAGES)}")
        self._known(stages, STAGES, ("stages",))
        given = [stage for stage in stages if stage in STAGES]
        if given != [stage for stage in STAGES if stage in given]:
            self._say(("stages",), f"the stages follow each other as {', '.join(STAGES)}")
        model = self._text(values, "model", "")
        if not model:
            self._say(
                ("model",),
                "no model; give the directory, or the name on the hub, that the first stage starts from",
            )
        evaluation = values.get("evaluation")
        return Recipe(
            name=name,
            experiment=self._text(values, "experiment", "katlit"),
            output=Path(self._text(values, "output", f"outputs/{name}")),
            seed=self._seed(values.get("seed", 1)),
            memory=None if values.get("memory") is None else str(values["memory"]),
            model=model,
            teacher=values.get("teacher"),
            prompts=self._source(values.get("prompts"), "prompts"),
            heldout=self._source(values.get("heldout"), "heldout"),
            common=self._overlay({key: values[key] for key in _PARTS if key in values}, ()),
            evaluation=None if evaluation is None else self._overlay(evaluation, ("evaluation",)),
            evaluate_base=self._switch(values, "evaluate_base"),
            stages={stage: self._stage(stages[stage], stage) for stage in given},
            labels={
                stage: self._overlay(stages[stage][_LABEL], ("stages", stage, _LABEL))
                for stage in given
                if isinstance(stages[stage], dict) and stages[stage].get(_LABEL) is not None
            },
            places=self._places,
        )  # fmt: skip

    def _stage(self, values: Any, stage: str) -> Overlay:
        return self._overlay(values, ("stages", stage), (_LABEL,) if stage in LABELLED else ())

    def _overlay(self, values: Any, path: tuple[str, ...], beside: tuple[str, ...] = ()) -> Overlay:
        section = self._mapping(values, path)
        self._known(section, (*_PARTS, *beside), path)
        files = section.get("settings") or []
        if not isinstance(files, list):
            self._say((*path, "settings"), f"{files!r} is no list of settings files")
            files = []
        found = []
        for number, file in enumerate(files):
            try:
                settings_file(str(file))
                found.append(str(file))
            except UserError as error:
                self._say((*path, "settings", str(number)), str(error))
        values = self._mapping(section.get("set"), (*path, "set"))
        for key in OWNED.keys() & values.keys():
            self._say((*path, "set", key), f"is the recipe's own; give {OWNED[key]}")
        kept = {key: value for key, value in values.items() if key not in OWNED}
        return Overlay(tuple(found), kept, self._launch(section, path))

    def _launch(self, section: Mapping[str, Any], path: tuple[str, ...]) -> tuple[str, ...]:
        text = self._text(section, "launch", "", path)
        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            self._say((*path, "launch"), f"{text!r} is no command line ({first_line(error)})")
            return ()

    def _source(self, value: Any, key: str) -> Any:
        """A source of prompts; a bare path is a file of questions with mathematical answers."""
        if value is None or (isinstance(value, dict) and "class_path" in value):
            return value
        if isinstance(value, str) and Path(value).suffix and not os.path.isfile(value):  # noqa: PTH113 (Path's has limits)
            self._say((key,), f"no file {value!r} here")
        if isinstance(value, str):
            arguments = {"path": value, "verifier": "math"}
            return {"class_path": "katlit.datamodules.FilePrompts", "init_args": arguments}
        self._say((key,), f"{value!r} is neither a file nor a class_path with init_args")
        return None

    def _switch(self, values: Mapping[str, Any], key: str) -> bool:
        value = values.get(key, False)
        if not isinstance(value, bool):
            self._say((key,), f"{value!r} is neither true nor false")
        return value is True

    def _seed(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            self._say(("seed",), f"{value!r} is no whole number")
            return 1
        return value

    def _text(self, values: Mapping[str, Any], key: str, default: str, path: tuple[str, ...] = ()) -> str:
        value = values.get(key, default)
        if isinstance(value, str):
            return value
        self._say((*path, key), f"{value!r} is no text")
        return default

    def _mapping(self, value: Any, path: tuple[str, ...]) -> dict[str, Any]:
        if value is None or isinstance(value, dict):
            return dict(value or {})
        self._say(path, f"{value!r} is no mapping")
        return {}

    def _known(
        self, values: Mapping[str, Any], known: Sequence[str] | Mapping[str, Any], path: tuple[str, ...]
    ) -> None:
        for key in values:
            if key not in known:
                self._say((*path, str(key)), f"no such key; {hint(str(key), known)}")

    def _say(self, path: tuple[str, ...], what: str) -> None:
        self.mistakes.append(f"{self._places.of(path)}: {'.'.join(path)}: {what}")
