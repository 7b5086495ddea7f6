"""Which steps of a recipe are done: a file for each, with a key of all that the step depends on."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from katlit.commands.recipe.own_code import own_files
from katlit.commands.recipe.steps import Step
from katlit.commands.settings_files import settings_file
from katlit.output import replace_file


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a step is.

    Attributes:
        key: What it depends on.
        done: Whether it ended well.
        seconds: How long it has run, over all tries.
        start: A random name of the last start that did not go on from an earlier one, so that what was made
            from the step before it is not taken for made from it.
    """

    key: str
    done: bool
    seconds: float
    start: str = ""


class Marks:
    """The marks of a recipe's steps, in a folder of its output."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, step: Step) -> Mark | None:
        """The mark of a step; None where it was never started, or its mark cannot be read."""
        try:
            return Mark(**json.loads(self._file(step).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, step: Step, mark: Mark) -> None:
        """Keep a mark."""
        self._folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._file(step), json.dumps(asdict(mark)) + "\n")

    def is_done(self, step: Step, key: str) -> bool:
        """Whether a step ended well with what it depends on now, and what it wrote is still there."""
        mark = self.read(step)
        return mark is not None and mark.done and mark.key == key and step.writes.exists()

    def _file(self, step: Step) -> Path:
        return self._folder / f"{step.name}.json"


def keys_of(steps: Sequence[Step], output: Path, marks: Marks) -> Iterator[str]:
    """The key of each step: its words, files, models and own classes that they name, starts of what it reads.

    Each is made when it is asked for, so that a step's key is of what is there when the step begins.

    Args:
        steps: Steps in their order.
        output: Folder that they write to; what is in there is known by the starts.
        marks: Those of the steps.
    """
    for step in steps:
        before = [
            [mark.key, mark.start]
            for other in steps
            if other.writes.parent in step.reads and (mark := marks.read(other)) is not None
        ]
        content = [version("katlit"), step.words, _contents(step.words, output), before]
        yield hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _contents(words: Sequence[str], output: Path) -> list[str]:
    """Fingerprints of the files, models and own classes that a command line and its settings files name."""
    texts = {word.partition("=")[2] for word in words if "=" in word}
    found = []
    for before, word in zip(["", *words], words, strict=False):
        if before == "-c":
            settings = settings_file(word).read_text(encoding="utf-8")
            found.append(hashlib.sha256(settings.encode()).hexdigest())
            texts |= set(_texts(yaml.safe_load(settings)))
    named = {text for value in texts for text in _texts(_read(value))}
    # Python's `Path.is_file` fails on a text that is too long for a name.
    files = {Path(text) for text in named if os.path.isfile(text)}  # noqa: PTH113
    models = {Path(text) for text in named if os.path.isfile(f"{text}/config.json")}  # noqa: PTH113
    places = sorted(place for place in files | models if not place.is_relative_to(output))
    return found + [_fingerprint(place) for place in [*places, *own_files(named)]]


def _fingerprint(place: Path) -> str:
    """Of a file its content; of a folder with a model the names, sizes and times of its files.

    Of what cannot be read it is why not: the step itself will say so.
    """
    try:
        if place.is_file():
            with place.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        files = (path for path in sorted(place.glob("*")) if path.is_file())
        return repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])
    except OSError as error:
        return str(error.strerror)


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value that may be the name of a file or folder."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and one and "\0" not in one:
            yield one
