"""The ordinary `katlit` commands that a recipe stands for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from katlit.commands.recipe.recipe import Overlay, Recipe

# The stages, and the key of their prompts.
STAGES = {
    "distill": "data.init_args.prompts",
    "cold_start": "data.init_args.prompts",
    "step_srpo": "data.init_args.train",
}
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"  # see `katlit.callbacks.metrics_file`
LABELS = "labels.json"  # see `katlit.datamodules.labelling.summary`
# What says where steps write is the recipe's own.
OWNED = {
    "trainer.default_root_dir": "output", "checkpoint.directory": "output",
    "data.init_args.cache_dir": "output",
    "seed_everything": "seed", "ckpt_path": "nothing: a second call goes on by itself",
}  # fmt: skip
BASE = "base"  # the model before all stages
BACKBONE = "model.init_args.backbone.init_args"
LABELLED = ("distill", "cold_start")


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a recipe.

    Attributes:
        name: What it is called in the recipe's folder.
        part: Part of the report that its time belongs to.
        words: The command, after `katlit`.
        reads: What steps before it wrote.
        writes: What it leaves; the step is not done without.
        section: Place in the recipe of the step's own settings.
        launch: Words before the command.
    """

    name: str
    part: str
    words: tuple[str, ...]
    reads: tuple[Path, ...]
    writes: Path
    section: tuple[str, ...]
    launch: tuple[str, ...]

    @property
    def trains(self) -> bool:
        """Whether it goes on from a checkpoint where it was stopped."""
        return self.words[0] == "fit"


def steps(recipe: Recipe) -> list[Step]:
    """The commands of a recipe, without its report, in their order."""
    plan = [_evaluate(recipe, BASE, None)] if recipe.evaluation is not None and recipe.evaluate_base else []
    before: str | None = None
    for stage in recipe.stages:
        plan += _train(recipe, stage, before)
        if recipe.evaluation is not None:
            plan.append(_evaluate(recipe, stage, stage))
        before = stage
    return plan


def exported(recipe: Recipe, stage: str) -> Path:
    """The model that a stage exports."""
    return recipe.output / stage / "model"


def evaluation_file(recipe: Recipe, stage: str) -> Path:
    """What an evaluation of a stage's model writes."""
    return recipe.output / "evaluate" / stage / "evaluation.json"


def _train(recipe: Recipe, stage: str, before: str | None) -> list[Step]:
    folder = recipe.output / stage
    values: dict[str, Any] = {
        "trainer.default_root_dir": str(folder),
        "checkpoint.directory": str(folder / CHECKPOINTS),
    }
    if before is None:
        start = () if stage == "distill" else (Path(recipe.model),)
        values[f"{BACKBONE}.model" if stage == "distill" else f"{BACKBONE}.init_from"] = recipe.model
    else:
        start = (exported(recipe, before),)
        values[f"{BACKBONE}.init_from"] = str(start[0])
    if recipe.prompts is not None:
        values[STAGES[stage]] = recipe.prompts
    if recipe.teacher is not None and stage == "distill":
        values["model.init_args.teacher"] = recipe.teacher
    has_weights = isinstance(recipe.teacher, str) and not recipe.teacher.startswith("endpoint:")
    if has_weights and stage == "cold_start":  # where the engine is the student's
        values["data.init_args.labeller.init_args.judge_writer"] = recipe.teacher
    if stage in LABELLED:
        values["data.init_args.cache_dir"] = str(recipe.output / "cache")
    own, section = recipe.stages[stage], ("stages", stage)
    words, launch = _words(recipe, own, values), own.launch or recipe.common.launch
    model = exported(recipe, stage)
    fit = Step(stage, stage, ("fit", *words), start, model / "config.json", section, launch)
    if stage not in LABELLED:
        return [fit]
    beside = recipe.labels.get(stage, Overlay())
    both = Overlay((*own.settings, *beside.settings), {**own.set, **beside.set})
    words, launch = _words(recipe, both, values), beside.launch or launch
    place = recipe.output / "cache"
    return [Step(f"label-{stage}", "label", ("label", *words), start, place, section, launch), fit]


def _evaluate(recipe: Recipe, name: str, stage: str | None) -> Step:
    model = recipe.model if stage is None else str(exported(recipe, stage))
    file = evaluation_file(recipe, name)
    values: dict[str, Any] = {
        f"{BACKBONE}.init_from": model,
        "trainer.default_root_dir": str(file.parent),
    }
    if recipe.heldout is not None:
        values["data.init_args.test"] = recipe.heldout
    evaluation = recipe.evaluation or Overlay()
    named = {
        key: value.replace("{stage}", name) if isinstance(value, str) else value
        for key, value in evaluation.set.items()
    }
    words = _words(recipe, Overlay(evaluation.settings, named), values)
    launch = evaluation.launch or recipe.common.launch
    return Step(
        f"evaluate-{name}", "evaluate", ("test", *words), (Path(model),), file, ("evaluation",), launch
    )


def _words(recipe: Recipe, own: Overlay, values: dict[str, Any]) -> list[str]:
    files = [word for file in (*recipe.common.settings, *own.settings) for word in ("-c", file)]
    said = {"seed_everything": recipe.seed} | values | dict(recipe.common.set) | dict(own.set)
    return [*files, *(f"--{key}={_spelled(value)}" for key, value in said.items())]


def _spelled(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str).strip('"')


def report_words(recipe: Recipe, seconds: dict[str, float]) -> list[str]:
    """`katlit report` over all evaluations."""
    names = [*([BASE] if recipe.evaluate_base else []), *recipe.stages]
    stages = [f"--stage={name}={evaluation_file(recipe, name)}" for name in names]
    parts = [f"--metrics={name}={recipe.output / name / METRICS}" for name in recipe.stages]
    labelled = [name for name in recipe.stages if name in LABELLED]
    parts += [f"--labels={name}={recipe.output / name / LABELS}" for name in labelled]
    times = [f"--seconds={part}={value:.1f}" for part, value in seconds.items()]
    return ["report", f"--output={recipe.output}", *stages, *parts, *times, f"--seed={recipe.seed}"]


def card_words(recipe: Recipe) -> list[str]:
    """`katlit card` of the last stage's model."""
    last: Sequence[str] = list(recipe.stages)
    return ["card", str(exported(recipe, last[-1])), f"--evaluation={evaluation_file(recipe, last[-1])}"]
