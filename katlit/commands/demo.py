"""The whole recipe, small but real: `python -m katlit.commands.demo`, from the top of the repository.

Runs ordinary `katlit` commands, printed before they start, one after the other; nothing happens here that a
reader could not type.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from katlit.errors import UserError
from katlit.tracking.mlflow import default_tracking_uri, finish_parent_run, log_to_run, start_parent_run

OUTPUT = Path("outputs/demo")
STAGES = ("distill", "cold_start", "step_srpo")
BASE = "assets/student"


def stage_command(command: str, stage: str, seed: int) -> list[str]:
    """`katlit fit` or `katlit label` of a stage."""
    settings = ("base.yaml", f"stage/{stage}.yaml", f"demo/{stage}.yaml")
    files = [word for name in settings for word in ("-c", name)]
    return ["katlit", command, *files, f"--seed_everything={seed}"]


def evaluate_command(stage: str, seed: int) -> list[str]:
    """`katlit test` of the model that a stage exported; `base` is the model before all stages."""
    model = BASE if stage == "base" else str(OUTPUT / stage / "model")
    return [
        *stage_command("test", "evaluate", seed),
        f"--model.init_args.backbone.init_args.init_from={model}",
        f"--trainer.default_root_dir={_evaluation(stage).parent}",
        f"--trainer.logger.init_args.run_name=evaluate-{stage}",
    ]


def report_command(seconds: dict[str, float], seed: int) -> list[str]:
    """`katlit report` over all evaluations."""
    stages = [f"--stage={stage}={_evaluation(stage)}" for stage in ("base", *STAGES)]
    times = [f"--seconds={name}={value:.1f}" for name, value in seconds.items()]
    return ["katlit", "report", f"--output={OUTPUT}", *stages, *times, f"--seed={seed}"]


def commands(seed: int) -> list[tuple[str, list[str]]]:
    """All commands in order, each with the part of the report that its time belongs to."""
    plan = [("evaluate", evaluate_command("base", seed))]
    for stage in STAGES:
        if stage != "step_srpo":
            plan.append(("label", stage_command("label", stage, seed)))
        plan.append((stage, stage_command("fit", stage, seed)))
        plan.append(("evaluate", evaluate_command(stage, seed)))
    return plan


def _evaluation(stage: str) -> Path:
    return OUTPUT / "evaluate" / stage / "evaluation.json"


def _run(command: Sequence[str], environment: dict[str, str]) -> float:
    """Print and run a command; seconds it took."""
    sys.stdout.write(f"\n$ {shlex.join(command)}\n")
    sys.stdout.flush()
    started = time.perf_counter()
    program = [sys.executable, "-m", "katlit.cli", *command[1:]]
    done = subprocess.run(program, check=False, env=environment)  # noqa: S603 (our own command line)
    if done.returncode:
        raise UserError(f"the command above failed with status {done.returncode}; the demo stops here")
    return time.perf_counter() - started


def run_demo(seed: int) -> None:
    """Run all stages under one MLflow run and write the report.

    Raises:
        UserError: where a command fails, or this is not the top of the repository.
    """
    if not Path("configs/demo").is_dir():
        raise UserError("no folder configs/demo here; run the demo from the top of the repository")
    uri = default_tracking_uri("outputs")
    run = start_parent_run(uri, "katlit-demo", f"demo seed {seed}", {"seed": str(seed)})
    environment = os.environ | {"KATLIT_PARENT_RUN_ID": run}
    seconds: dict[str, float] = {}
    failed = True
    try:
        for part, command in commands(seed):
            seconds[part] = seconds.get(part, 0.0) + _run(command, environment)
        _run(report_command(seconds, seed), environment)
        headline = json.loads((OUTPUT / "report.json").read_text(encoding="utf-8"))["headline"]
        files = [OUTPUT / name for name in ("report.md", "pareto.png", "report.json")]
        ratios = {name: headline[name] for name in ("token_ratio", "accuracy_gap")}
        log_to_run(uri, run, files, ratios)
        failed = False
    finally:
        finish_parent_run(uri, run, failed=failed)
    sys.stdout.write(
        f"\ntokens of auto / on: {ratios['token_ratio']:.2f}   "
        f"accuracy auto - on: {ratios['accuracy_gap']:+.3f}   {sum(seconds.values()) / 60:.1f} minutes\n"
        f"{OUTPUT}/report.md has the rest, `make ui` opens MLflow\n"
    )


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m katlit.commands.demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="seed of data, sampling and training")
    try:
        run_demo(parser.parse_args().seed)
    except UserError as error:
        sys.stderr.write(f"katlit demo: error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
