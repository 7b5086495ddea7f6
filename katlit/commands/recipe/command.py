"""`katlit run`: the stages of a recipe, each an ordinary command; a second call goes on."""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from textwrap import indent
from uuid import uuid4

from katlit.commands.recipe.done import Mark, Marks, keys_of
from katlit.commands.recipe.process import Commands, alone, shown
from katlit.commands.recipe.reader import read_recipe
from katlit.commands.recipe.recipe import Recipe
from katlit.commands.recipe.steps import CHECKPOINTS, Step, card_words, report_words, steps
from katlit.commands.recipe.story import Story, table
from katlit.commands.recipe.warm import WarmStart, is_possible
from katlit.commands.settings_files import settings_file
from katlit.errors import UserError
from katlit.output import replace_file, require_writable, set_aside
from katlit.tracking.mlflow import PARENT_RUN_VARIABLE, default_tracking_uri
from katlit.tracking.parent_run import (
    close_killed_runs,
    finish_parent_run,
    page_of,
    reopen_run,
    start_parent_run,
)
from katlit.tracking.store import TrackerDownError, check_tracking

logger = logging.getLogger(__name__)

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
    for step, key in zip(plan, keys_of(plan, recipe.output, marks), strict=True):
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
    with (
        alone(recipe.output / _FOLDER) as lock,
        _parent_run(recipe) as parent,
        WarmStart(lock) as warm,
    ):
        environment = os.environ | {PARENT_RUN_VARIABLE: parent.run}
        commands = Commands(lock, environment, warm if is_possible() else None)
        story = Story(len(plan))
        for step, key in zip(plan, keys_of(plan, recipe.output, marks), strict=True):
            if marks.is_done(step, key):
                story.skip(step.name)
            else:
                story.begin(step.name)
                story.end(step.name, _run(step, key, marks, commands), step.writes)
        if recipe.evaluation is not None:
            seconds = _seconds(plan, marks)
            _report(recipe, plan, marks, commands)
            _conclude(recipe, seconds, parent)


def _report(recipe: Recipe, plan: Sequence[Step], marks: Marks, commands: Commands) -> None:
    """Write report and card, unless they are of these very steps."""
    made = [(mark.key, mark.start) for step in plan if (mark := marks.read(step)) is not None]
    trained = next(mark.start for step in reversed(plan) if step.trains and (mark := marks.read(step)))
    words = report_words(recipe, _seconds(plan, marks))
    step = Step("report", "report", tuple(words), (), recipe.output / "report.json", (), ())
    mark = Mark(sha256(json.dumps(made).encode()).hexdigest(), done=True, seconds=0.0, start=trained)
    if marks.is_done(step, mark.key) and all((recipe.output / name).is_file() for name in REPORT_FILES):
        return
    known = marks.read(step)
    commands.call(words)
    marks.write(step, replace(mark, done=False))  # a card that fails may be changed before the next try
    # Nobody can have changed the card of a model that had no report yet.
    again = [] if known is not None and known.start == trained else ["--overwrite"]
    commands.call([*card_words(recipe), *again])
    marks.write(step, mark)


def _run(step: Step, key: str, marks: Marks, commands: Commands) -> float:
    """Run a step; seconds that it took this time."""
    before = marks.read(step)
    if before is None or before.key != key or before.done or _is_lost(step):
        before = Mark(key, done=False, seconds=0.0, start=uuid4().hex)
        if step.trains:
            _clear(step.writes.parents[1])
        words = step.words
    else:
        words = (*step.words, "--ckpt_path=auto") if step.trains else step.words
    marks.write(step, before)
    started, done = time.perf_counter(), False
    try:
        commands.call(words, step.launch)
        done = True
    finally:
        seconds = time.perf_counter() - started
        marks.write(step, replace(before, done=done, seconds=before.seconds + seconds))
    return seconds


def _is_lost(step: Step) -> bool:
    """Whether all checkpoints of a step that was stopped are damaged; a line says so."""
    folder = step.writes.parents[1] / CHECKPOINTS
    if not step.trains or not folder.is_dir():
        return False
    from katlit.callbacks.checkpoint_files import checkpoints, damage

    found = checkpoints(folder)
    lost = bool(found) and all(damage(path) is not None for path in reversed(found))
    if lost:
        sys.stdout.write(f"{step.name}: all checkpoints in {folder} are damaged; it starts anew\n")
    return lost


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


@dataclass
class _Parent:
    """The MLflow run that the steps hang under, and what is added to it at the end."""

    uri: str
    run: str
    files: Sequence[Path] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def _parent_run(recipe: Recipe) -> Iterator[_Parent]:
    """The MLflow run that the steps hang under: that of the call before, where there was one."""
    uri = default_tracking_uri("outputs")
    file = recipe.output / _FOLDER / "parent.json"
    name = f"{recipe.name} seed {recipe.seed}"
    wanted = {"uri": uri, "experiment": recipe.experiment, "name": name}
    run = _known_run(file, wanted)
    if run is None:
        run = start_parent_run(uri, recipe.experiment, name, {"seed": str(recipe.seed)})
        replace_file(file, json.dumps(wanted | {"run_id": run}) + "\n")
    parent, failed = _Parent(uri, run), True
    try:
        yield parent
        failed = False
    finally:
        finish_parent_run(uri, run, failed=failed, files=parent.files, metrics=parent.metrics)


def _known_run(file: Path, wanted: dict[str, str]) -> str | None:
    """The run of the call before, if it can be gone on with; a server that is down stops nothing then."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    run: str | None = known.pop("run_id", None)
    if run is None:
        return None
    try:  # we are alone here, so what still runs was killed
        close_killed_runs(known.get("uri", wanted["uri"]), run)
        return run if known == wanted and reopen_run(wanted["uri"], run) else None
    except TrackerDownError as error:
        logger.warning("%s; runs of before stay open there", error)
        return run if known == wanted else None


def _conclude(recipe: Recipe, seconds: dict[str, float], parent: _Parent) -> None:
    """Print the headline, and have the report kept in the parent run."""
    report = json.loads((recipe.output / "report.json").read_text(encoding="utf-8"))
    ratios = {name: report["headline"][name] for name in ("token_ratio", "accuracy_gap")}
    sys.stdout.write(
        f"\n{table(report.get('history', {}))}"
        f"\ntokens of auto / on: {ratios['token_ratio']:.2f}   "
        f"accuracy auto - on: {ratios['accuracy_gap']:+.3f}   {sum(seconds.values()) / 60:.1f} minutes\n"
        f"{recipe.output}/report.html has the rest"
    )
    sys.stdout.flush()
    sys.stdout.write(f"{_charts(parent)}\n")
    parent.files = [recipe.output / name for name in REPORT_FILES]
    parent.metrics = ratios


def _charts(parent: _Parent) -> str:
    """Where MLflow shows the runs; nothing where it does not answer, which the end of the run tells."""
    try:
        check_tracking(parent.uri)
        page = page_of(parent.uri, parent.run)
    except UserError:
        return ""
    shown = "charts" if "model-metrics" in page else "runs"
    return (
        f"; `mlflow ui --backend-store-uri {parent.uri}` opens MLflow, "
        f"the {shown} are at http://127.0.0.1:5000{page}"
    )
