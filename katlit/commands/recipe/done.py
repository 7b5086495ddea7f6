"""Which steps of a recipe are done: a file for each, with a key of all that the step depends on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
    """

    key: str
    done: bool
    seconds: float


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


def keys_of(steps: Sequence[Step]) -> list[str]:
    """The key of each step: its words, the files that these name, and the keys of the steps that it reads."""
    written: dict[Path, str] = {}
    keys = []
    for step in steps:
        before = [key for path, key in written.items() if path in step.reads]
        content = [version("katlit"), step.words, _contents(step.words), before]
        keys.append(hashlib.sha256(json.dumps(content).encode()).hexdigest())
        written[step.writes.parent] = keys[-1]
    return keys


def _contents(words: Sequence[str]) -> list[str]:
    """Fingerprints of the files that a command line names: settings, and files of data."""
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(set(_files(words)))]


def _files(words: Sequence[str]) -> Iterator[Path]:
    for before, word in zip(["", *words], words, strict=False):
        if before == "-c":
            yield settings_file(word)
        elif "=" in word:
            value = word.partition("=")[2]
            yield from (Path(text) for text in _texts(value) if Path(text).is_file())


def _texts(value: str) -> Iterator[str]:
    """All texts in a value that may be JSON."""
    try:
        read: Any = json.loads(value)
    except ValueError:
        read = value
    left = [read]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and len(one) < 1000 and "\0" not in one:
            yield one
