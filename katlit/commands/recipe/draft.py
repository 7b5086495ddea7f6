"""The settings of a step while they are checked: what is wrong is taken out, so that the next is found."""

import re
from pathlib import Path

from katlit.commands.recipe.places import Places, short
from katlit.commands.recipe.recipe import Recipe
from katlit.commands.recipe.steps import BACKBONE, STAGES, Step
from katlit.commands.settings_files import settings_file

# Keys of the settings that are keys of the recipe.
_KEYS = {
    f"{BACKBONE}.model": "model", f"{BACKBONE}.init_from": "model", "model.init_args.teacher": "teacher",
    "data.init_args.labeller.init_args.judge_writer": "teacher", "data.init_args.test": "heldout",
    "seed_everything": "seed", **dict.fromkeys(STAGES.values(), "prompts"),
}  # fmt: skip


class Draft:
    """The settings of a step, in files and words of which some were taken out.

    Args:
        recipe: The recipe.
        step: One of its steps.
        folder: For the files that are changed.
    """

    def __init__(self, recipe: Recipe, step: Step, folder: Path) -> None:
        self._recipe = recipe
        self._step = step
        self._folder = folder
        self._options = dict(
            word.removeprefix("--").split("=", 1) for word in step.words if word.startswith("--")
        )
        names = [word for before, word in zip(step.words, step.words[1:], strict=False) if before == "-c"]
        self._files = {name: settings_file(name) for name in names}
        self._places = {
            name: Places(str(path), path.read_text(encoding="utf-8")) for name, path in self._files.items()
        }

    @property
    def words(self) -> list[str]:
        """The command line as it is now."""
        files = [word for path in self._files.values() for word in ("-c", str(path))]
        return [self._step.words[0], *files, *(f"--{key}={value}" for key, value in self._options.items())]

    def place_of(self, message: str) -> tuple[str, bool]:
        """File and line of what a message is about, which is then taken out, and whether it was there."""
        key = key_of(message)
        nearest = re.search(r"the nearest is (katlit\.[\w.]+|lightning\.[\w.]+)$", message)
        option = self._option(key, inside="no such key" in message)
        if option is not None:
            del self._options[option]
            return self._recipe.places.of(self._path(option, key)), True
        for number, name in enumerate(reversed(list(self._files))):
            places = self._places[name]
            if (path := places.find(key, message)) is not None:
                found = places.of(path)
                instead = nearest[1] if nearest and path[-1] == "class_path" else None
                places.remove(path, instead)
                changed = self._folder / f"{len(self._files) - number}.yaml"
                changed.write_text(places.text, encoding="utf-8")
                self._files[name] = changed
                return found, True
        return self._recipe.places.of(self._step.section), False

    def _option(self, key: str, *, inside: bool) -> str | None:
        """The word that a message is about: one with the key or around it, perhaps one inside of it."""
        wanted = f"{short(key)}."
        known = [option for option in self._options if wanted.startswith(f"{short(option)}.")]
        if inside and not known:
            known = [option for option in self._options if f"{short(option)}.".startswith(wanted)]
        return max(known, key=len, default=None)

    def _path(self, option: str, key: str) -> tuple[str, ...]:
        """The place in the recipe of a word, and of what a message names inside of it."""
        inside = tuple(key.removeprefix(option).strip(".").split("."))
        own = self._step.section
        places = [(*section, "set", option) for section in ((*own, "label"), own, ())]
        known = [place for place in places if self._recipe.places.has(place)]
        if not known and option in _KEYS:
            return (_KEYS[option], *inside)
        return (*next(iter(known), places[1]), *inside)


def key_of(message: str) -> str:
    """The key that a message begins with."""
    return re.split(r"[:,] ", message, maxsplit=1)[0]
