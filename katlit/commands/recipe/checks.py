"""What can be known of a recipe's steps without running them: mistakes in settings, and memory."""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from typing_extensions import override

from katlit.commands.known_names import sections
from katlit.commands.plan.command import main as plan
from katlit.commands.recipe.draft import Draft, key_of
from katlit.commands.recipe.recipe import Recipe
from katlit.commands.recipe.steps import BACKBONE, Step, steps
from katlit.commands.trainer import KatCLI, run
from katlit.errors import UserError

_FILES = {"path", "records_file"}
_ENDINGS = {".jsonl", ".json", ".csv", ".tsv", ".parquet"}


class Checker(KatCLI):
    """Parses as the command does, and calls the constructors of what the settings name; nothing runs."""

    @override
    def _set_seed(self) -> None:
        """Nothing is random."""

    @override
    def build(self) -> None:
        """Call the constructors, which keep settings only, and refuse files that are not there."""
        command = str(self.config.subcommand)
        settings = self.config[command]
        _require_files(settings.as_dict())
        self._parser(command).instantiate_classes(settings)
        self.subcommand: str | None = None

    @override
    def after_instantiate_classes(self) -> None:
        """Nothing is written."""


def mistakes(recipe: Recipe, plan: Sequence[Step], told: Sequence[str] = ()) -> list[str]:
    """All mistakes in the settings of some steps that are found without running anything, each once.

    Args:
        recipe: The recipe.
        plan: Its steps.
        told: Mistakes that are known.
    """
    found: dict[tuple[str, str], str] = {}
    for step in plan:
        for place, message in _of_step(recipe, step):
            what = message.partition(": ")[2]
            if not any(one.startswith(f"{place}: ") and one.endswith(what) for one in told):
                found.setdefault((place, message), f"{place}: {step.name}: {message}")
    return list(found.values())


def _of_step(recipe: Recipe, step: Step) -> Iterator[tuple[str, str]]:
    """Each mistake with its place. What is wrong is taken out, and with a value that has to be its class."""
    out: set[str] = set()
    with TemporaryDirectory() as folder:
        draft, goes_on = Draft(recipe, step, Path(folder)), True
        while goes_on and (message := _refusal(draft.words)) is not None:
            key = key_of(message)
            if key in out and "no value is given" in message:
                goes_on = draft.place_of(f"{key.rpartition('.init_args.')[0]}: ")[1]
                continue
            place, goes_on = draft.place_of(message)
            out.add(key)
            yield place, message


def _refusal(words: list[str]) -> str | None:
    """Why a command line is refused; None where it is not."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            run(words, Checker)
    except UserError as error:
        return str(error)
    return None


def _require_files(settings: dict[str, Any]) -> None:
    """Refuse a file of data that is not there."""
    for path, section in sections(settings):
        for name in _FILES & section.keys():
            value = section[name]
            if isinstance(value, str) and Path(value).suffix in _ENDINGS and not Path(value).is_file():
                raise UserError(f"{path}.{name}: no file {value!r} here")


def memory(recipe: Recipe, step: Step) -> str:
    """What `katlit plan` says of a step that trains, on the model that the recipe starts from.

    A model that an earlier stage makes deeper is as deep later.
    """
    start = f"--{BACKBONE}.init_from="
    words = [word for word in step.words[1:] if not word.startswith(start)]
    if len(words) < len(step.words) - 1:
        words += [f"{start}{recipe.model}", *_depth(recipe)]
    if recipe.memory is not None:
        words.append(f"--memory={recipe.memory}")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            plan(["plan", *words])
    except UserError as error:
        return f"cannot be planned: {error}"
    return printed.getvalue().strip()


def _depth(recipe: Recipe) -> list[str]:
    """The words that make a model as deep as the first stage makes it."""
    first = next(step for step in steps(recipe) if step.trains)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):  # of the settings, printed
        run([*first.words, "--print_config"])
    model = yaml.safe_load(printed.getvalue())["model"]
    depth = model["init_args"]["backbone"]["init_args"].get("depth") or {}
    known = {key: value for key, value in depth.get("init_args", depth).items() if value is not None}
    return [f"--{BACKBONE}.depth={json.dumps(known | {'train_only_new': False})}"] if known else []
