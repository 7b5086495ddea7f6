"""`katlit run`: the stages of a recipe, each an ordinary command; a second call goes on."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent

from katlit.commands.recipe.done import Mark, Marks, keys_of
from katlit.commands.recipe.process import Commands, alone, shown
from katlit.commands.recipe.reader import read_recipe
from katlit.commands.recipe.recipe import Recipe
from katlit.commands.recipe.steps import CHECKPOINTS, Step, card_words, report_words, steps
from katlit.commands.recipe.story import Story, table
from katlit.commands.settings_files import settings_file
from katlit.errors import UserError
from katlit.output import replace_file, require_writable, set_aside
from katlit.tracking.mlflow import PARENT_RUN_VARIABLE, default_tracking_uri
from katlit.tracking.parent_run import finish_parent_run, log_to_run, reopen_run, start_parent_run

_FOLDER = ".steps"
REPORT_FILES = ("report.html", "report.md", "pareto.png", "report.json")


def main(arguments: Sequence[str]) -> int:
    """Run a recipe, or go on with it.

    Args:
        arguments: What follows `katlit run`; `--help` lists them.

    Returns:
        The exit status.

    Raises:
        UserError: for the mistakes of a recipe, all of them at once, and where a step fails.
    """
    parser = argparse.ArgumentParser(prog="katlit run", description=__doc__)
    parser.add_argument("recipe", metavar="FILE", help="a recipe, such as recipe/demo.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes",
                        help="another value: seed=2, or stages.distill.set.trainer.max_steps=10")  # fmt: skip
    parser.add_argument(
        "--plan", action="store_true", help="show the steps, and what they need and leave; run nothing"
    )
    given = parser.parse_args(list(arguments))
    recipe, mistakes = read_recipe(settings_file(given.recipe), given.changes)
    if given.plan:
        from katlit.commands.recipe import checks

        mistakes += checks.mistakes(recipe, steps(recipe), mistakes)
    _refuse(given.recipe, mistakes)
    if given.plan:
        sys.stdout.write(overview(recipe))
    else:
        require_writable(recipe.output, "output")
        run(recipe)
    return 0


def _refuse(name: str, mistakes: Sequence[str]) -> None:
    """Print all mistakes, and stop where there is one."""
    for mistake in mistakes:
        sys.stderr.write(f"{' '.join(mistake.split())}\n")
    if mistakes:
        raise UserError(f"{name}: {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}, named above")


def overview(recipe: Recipe) -> str:
    """Each step's command, what it reads and writes, its memory, and whether it is done."""
    from katlit.commands.recipe import checks

    plan, marks = steps(recipe), Marks(recipe.output / _FOLDER)
    text = []
    for step, key in zip(plan, keys_of(plan, recipe.output), strict=True):
        state = "done" if marks.is_done(step, key) else "to do"
        reads = ", ".join(map(str, step.reads)) or "the settings' models and data"
        text += [f"{step.name} ({state})", f"  $ {shown(step.words, step.launch)}"]
        text += [f"  reads {reads}", f"  writes {step.writes}", ""]
        if step.trains:
            text += [indent(checks.memory(recipe, step), "  "), ""]
    return "\n".join(text)


def run(recipe: Recipe) -> None:
    """Run what is not done yet, under one MLflow run, and write the report."""
    plan, marks = steps(recipe), Marks(recipe.output / _FOLDER)
    with alone(recipe.output / _FOLDER) as lock, _parent_run(recipe) as (uri, parent):
        commands = Commands(lock, os.environ | {PARENT_RUN_VARIABLE: parent})
        ran, story = [], Story(len(plan))
        for step, key in zip(plan, keys_of(plan, recipe.output), strict=True):
            if marks.is_done(step, key):
                story.skip(step.name)
            else:
                story.begin(step.name)
                story.end(step.name, _run(step, key, marks, commands), step.writes)
                ran.append(step)
        if recipe.evaluation is None:
            return
        seconds = _seconds(plan, marks)
        if ran or not (recipe.output / "report.json").is_file():
            commands.call(report_words(recipe, seconds))
            # Nobody can have changed the card of a model that was trained just now.
            again = ["--overwrite"] if any(step.trains for step in ran) else []
            commands.call([*card_words(recipe), *again])
        _conclude(recipe, seconds, uri, parent)


def _run(step: Step, key: str, marks: Marks, commands: Commands) -> float:
    """Run a step; seconds that it took this time."""
    mark = marks.read(step)
    again = mark is not None and mark.key == key and not mark.done
    words = list(step.words)
    if step.trains and again:
        words.append("--ckpt_path=auto")
    elif step.trains:
        _clear(step.writes.parents[1])
    before = mark.seconds if mark is not None and again else 0.0
    marks.write(step, Mark(key, done=False, seconds=before))
    started = time.perf_counter()
    try:
        commands.call(words, step.launch)
    except BaseException:
        marks.write(step, Mark(key, done=False, seconds=before + time.perf_counter() - started))
        raise
    seconds = time.perf_counter() - started
    marks.write(step, Mark(key, done=True, seconds=before + seconds))
    return seconds


def _clear(folder: Path) -> None:
    """Put the checkpoints of other settings aside, so that a run that goes on finds its own only."""
    checkpoints = folder / CHECKPOINTS
    if checkpoints.is_dir():
        set_aside([checkpoints], folder)


def _seconds(plan: Sequence[Step], marks: Marks) -> dict[str, float]:
    """Time of each part of the report."""
    found: dict[str, float] = {}
    for step in plan:
        mark = marks.read(step)
        found[step.part] = found.get(step.part, 0.0) + (mark.seconds if mark is not None else 0.0)
    return found


@contextmanager
def _parent_run(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The MLflow run that the steps hang under: that of the call before, where there was one."""
    uri = default_tracking_uri("outputs")
    file = recipe.output / _FOLDER / "parent.json"
    name = f"{recipe.name} seed {recipe.seed}"
    wanted = {"uri": uri, "experiment": recipe.experiment, "name": name}
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    parent = known.pop("run_id", None)
    if parent is None or known != wanted or not reopen_run(uri, parent):
        parent = start_parent_run(uri, recipe.experiment, name, {"seed": str(recipe.seed)})
        replace_file(file, json.dumps(wanted | {"run_id": parent}) + "\n")
    failed = True
    try:
        yield uri, parent
        failed = False
    finally:
        finish_parent_run(uri, parent, failed=failed)


def _conclude(recipe: Recipe, seconds: dict[str, float], uri: str, parent: str) -> None:
    """Keep the report in the parent run, and print the headline."""
    report = json.loads((recipe.output / "report.json").read_text(encoding="utf-8"))
    ratios = {name: report["headline"][name] for name in ("token_ratio", "accuracy_gap")}
    files = [recipe.output / name for name in REPORT_FILES]
    log_to_run(uri, parent, files, ratios)
    sys.stdout.write(
        f"\n{table(report.get('history', {}))}"
        f"\ntokens of auto / on: {ratios['token_ratio']:.2f}   "
        f"accuracy auto - on: {ratios['accuracy_gap']:+.3f}   {sum(seconds.values()) / 60:.1f} minutes\n"
        f"{recipe.output}/report.html has the rest, `mlflow ui --backend-store-uri {uri}` opens MLflow\n"
    )
