"""What the parts of stage 3 contribute, on the demo: estimator, forced modes, bias, history resampling.

`python benchmarks/ablation_rl.py [--seeds 1 2 3] [--steps 60]`, from the top of the repository; an hour or
two on two cores. One cold start is made by the demo's own commands, or given as `--cold-start`; each variant
is then trained from it on every seed, and asked the demo's 800 held-out questions. A seed brings other
questions and other samples; variants of one seed see the same questions.

Of the demo's settings one is changed: 800 questions to train on instead of 2,240, because the demo's 56
steps are less than an epoch, and a history acts from the second one on.

The table goes to docs/ablation-rl.md, the figure beside it; runs go to outputs/ablation/rl, and are not
repeated: for another cold start, remove them. The last line is a JSON object.
"""

import argparse
import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from _ablation import all_of, katlit, measured
from _ablation_rl import COLD_START, Experiment, Policy, Run, Validation, figure, headline, page, untrained
from _demo import stage_command

OUTPUT = Path("outputs/ablation/rl")
PAGE = Path("docs/ablation-rl.md")

# The callback that a bare `trainer.callbacks.…` sets is the last one, the demo's rollout sampler.
VARIANTS: dict[str, tuple[str, ...]] = {
    "grpo": ("--model.init_args.estimator=katlit.advantages.GRPO",),
    "hipo": ("--model.init_args.estimator=katlit.advantages.HiPO",),
    "process": (),
    "process without forced modes": ("--trainer.callbacks.init_args.forced_share=0.0",),
    "process without bias": ("--model.init_args.estimator.init_args.bias=0.0",),
    "process without history resampling": ("--data.init_args.history=false",),
}
REFERENCE = "reference"  # the cold start on the validation questions
EXPERIMENT = Experiment()
VALIDATION = {  # the first of the questions of the demo's evaluation
    "class_path": "katlit.datamodules.TaskPrompts",
    "init_args": {
        "families": "configs/demo/levels.yaml", "size": EXPERIMENT.validation, "seed": 1000,
        "split": "heldout", "heldout_percent": 20,
    },
}  # fmt: skip


def cold_start() -> Path:
    """Stages 1 and 2 by the demo's commands."""
    distilled = f"--model.init_args.backbone.init_args.init_from={OUTPUT / 'distill/model'}"
    for stage, more in (("distill", ()), ("cold_start", (distilled,))):
        for command in ("label", "fit"):
            words = [
                *stage_command(command, stage, EXPERIMENT.cold_start_seed)[1:],
                "-c", "configs/logger/csv.yaml",
                f"--data.init_args.cache_dir={OUTPUT / 'cache'}",
                f"--trainer.default_root_dir={OUTPUT / stage}",
                *more,
            ]  # fmt: skip
            measured(OUTPUT / f"{command}-{stage}.json", partial(_run, words, f"{command}-{stage}"))
    return OUTPUT / "cold_start/model"


def _run(words: Sequence[str], name: str) -> None:
    katlit(words, OUTPUT / f"{name}.log")


def train(variant: str, name: str, seed: int, steps: int, start: Path) -> Run:
    """Train a variant, validating on the way, and evaluate its export; what it leaves on disk goes."""
    folder = OUTPUT / name
    shutil.rmtree(folder, ignore_errors=True)
    words = [
        *stage_command("fit", "step_srpo", seed)[1:],
        "-c", "configs/logger/csv.yaml",
        *VARIANTS[variant],
        f"--model.init_args.backbone.init_args.init_from={start}",
        f"--data.init_args.train.init_args.source.init_args.size={EXPERIMENT.questions}",
        f"--data.init_args.validation={json.dumps(VALIDATION)}",
        f"--trainer.default_root_dir={folder}",
        f"--trainer.max_steps={steps}",
        f"--trainer.val_check_interval={EXPERIMENT.validate_every}",
        "--trainer.check_val_every_n_epoch=null",
    ]  # fmt: skip
    _run(words, name)
    found = evaluate(folder / "model", f"{name}-evaluation", seed, EXPERIMENT.evaluation)
    found["curve"] = curve(folder)
    shutil.rmtree(folder)
    return found


def curve(folder: Path) -> list[Validation]:
    """The validations of a run."""
    with (folder / "csv/version_0/metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/accuracy")]
    return [
        Validation(
            step=EXPERIMENT.validate_every * number,
            accuracy=float(row["val/accuracy"]),
            tokens=float(row["val/mean_tokens"]),
        )
        for number, row in enumerate(rows, 1)
    ]


def evaluate(model: Path, name: str, seed: int, size: int) -> Run:
    """Ask a model held-out questions, left to decide and with thinking forced."""
    words = [
        *stage_command("test", "evaluate", seed)[1:],
        "-c", "configs/logger/csv.yaml",
        f"--model.init_args.backbone.init_args.init_from={model}",
        f"--data.init_args.test.init_args.size={size}",
        f"--trainer.default_root_dir={OUTPUT / name}",
        '--trainer.callbacks.init_args.policies=["auto","on"]',
    ]  # fmt: skip
    _run(words, name)
    results = json.loads((OUTPUT / name / "evaluation.json").read_text(encoding="utf-8"))
    shutil.rmtree(OUTPUT / name)
    policies = {
        policy: Policy(
            accuracy=figures["accuracy"],
            tokens=figures["mean_tokens"],
            think_rate=by_difficulty([row for row in results["by_difficulty"] if row["policy"] == policy]),
        )
        for policy, figures in results["policies"].items()
    }
    return Run(auto=policies["auto"], on=policies["on"], curve=[])


def by_difficulty(levels: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Think rates of the difficulties, all families together."""
    rates = {}
    for difficulty in sorted({level["difficulty"] for level in levels}):
        own = [level for level in levels if level["difficulty"] == difficulty]
        rates[str(difficulty)] = sum(level["count"] * level["think_rate"] for level in own) / sum(
            level["count"] for level in own
        )
    return rates


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--cold-start", type=Path, help="the model to start from, in place of the demo's")
    options = parser.parse_args()
    start = options.cold_start or cold_start()
    jobs: list[tuple[str, Callable[[], Run]]] = []
    for seed in options.seeds:
        for row, size in ((REFERENCE, EXPERIMENT.validation), (COLD_START, EXPERIMENT.evaluation)):
            name = f"start-{size}-{seed}"
            jobs.append((row, _once(name, partial(evaluate, start, name, seed, size))))
        for variant in VARIANTS:
            name = f"{options.steps}-{list(VARIANTS).index(variant)}-{seed}"
            jobs.append((variant, _once(name, partial(train, variant, name, seed, options.steps, start))))
    found: dict[str, list[Run]] = {}
    results = all_of([job for _, job in jobs], options.at_once)
    for (row, _), result in zip(jobs, results, strict=True):
        found.setdefault(row, []).append(result)
    references = found.pop(REFERENCE)
    for variant in VARIANTS:
        for run, reference in zip(found[variant], references, strict=True):
            run["curve"].insert(0, untrained(reference))
    goal = headline(references)
    text = page(found, goal, EXPERIMENT, options.seeds, options.steps)
    PAGE.write_text(text, encoding="utf-8")
    figure(found, goal, PAGE.with_suffix(".png"))
    print(text)
    print(json.dumps({"headline": goal._asdict()} | found))


def _once(name: str, measure: Callable[[], Run]) -> Callable[[], Run]:
    return partial(measured, OUTPUT / f"{name}.json", measure)


if __name__ == "__main__":
    main()
