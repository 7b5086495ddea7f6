"""`katlit report`: what the stages did to the three policies, as a page, Markdown, picture and JSON."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from katlit.commands.report_page import page
from katlit.commands.report_parts import read_answers, read_labels, read_steps, utf8_text
from katlit.commands.report_pictures import POLICIES, Evaluations, pareto, png
from katlit.errors import UserError
from katlit.output import replace_file, require_writable

STAGES = ("label", "distill", "cold_start", "step_srpo", "evaluate")
NEEDED = ("policies", "headline", "by_difficulty", "seed", "num_prompts", "engine", "versions")


def main(arguments: Sequence[str]) -> int:
    """Write `report.html`, `report.md`, `pareto.png` and `report.json`.

    Args:
        arguments: What follows `katlit report`; `--help` lists them.

    Returns:
        The exit status.

    Raises:
        UserError: where an evaluation is missing or is none, or the folder cannot be written.
    """
    parser = argparse.ArgumentParser(prog="katlit report", description=main.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--output", required=True, help="folder of the report")
    parser.add_argument("--stage", action="append", required=True, metavar="NAME=FILE", type=_pair,
                        help="an evaluation.json, in the order of the stages")  # fmt: skip
    parser.add_argument("--metrics", action="append", default=[], metavar="NAME=FILE", type=_pair,
                        help="the metrics.jsonl of a stage, for its curves")  # fmt: skip
    parser.add_argument("--labels", action="append", default=[], metavar="NAME=FILE", type=_pair,
                        help="the labels.json of a stage: what labelling dropped, and why")  # fmt: skip
    parser.add_argument("--seconds", action="append", default=[], metavar="NAME=SECONDS", type=_pair,
                        help=f"how long a part of the run took: {', '.join(STAGES)}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    options = parser.parse_args(list(arguments))
    evaluations = {name: read_evaluation(Path(file)) for name, file in options.stage}
    answers = {name: read_answers(Path(file)) for name, file in options.stage}
    metrics = {name: read_steps(Path(file)) for name, file in options.metrics}
    labels = {name: found for name, file in options.labels if (found := read_labels(Path(file))) is not None}
    seconds = {name: _number(name, value) for name, value in options.seconds}
    require_writable(options.output, "--output")
    results = report(evaluations, seconds, options.seed)
    folder = Path(options.output)
    replace_file(folder / "pareto.png", png(pareto(evaluations)))
    replace_file(folder / "report.html", page(results, evaluations, answers, metrics, labels))
    replace_file(folder / "report.md", markdown(results))
    replace_file(folder / "report.json", json.dumps(results, indent=2) + "\n")
    sys.stdout.write(
        f"{folder / 'report.html'} shows it all; report.md, report.json, pareto.png are beside it\n"
    )
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UserError(f"--seconds {name}={value}: not a number") from error


def read_evaluation(file: Path) -> dict[str, Any]:
    """What `katlit test` wrote of a model.

    Args:
        file: The `evaluation.json`.

    Raises:
        UserError: where there is none, or a policy is missing.
    """
    if not file.is_file():
        raise UserError(
            f"{file}: no such evaluation; `katlit test` with katlit.callbacks.evaluation writes it"
        )
    try:
        evaluation: Any = json.loads(utf8_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}: not JSON ({error.msg})") from error
    missing = [key for key in NEEDED if not isinstance(evaluation, dict) or evaluation.get(key) is None]
    if not missing:
        missing = [name for name in POLICIES if name not in evaluation["policies"]]
    if missing:
        raise UserError(f"{file}: lacks {', '.join(missing)}; evaluate all of auto, on and off")
    return dict(evaluation)


def report(evaluations: Evaluations, seconds: Mapping[str, float], seed: int) -> dict[str, Any]:
    """Put the evaluations of the stages together; the last two are before and after RL."""
    *earlier, (_, last) = evaluations.items()
    return {
        "policies": last["policies"],
        "headline": last["headline"],
        "mode_accuracy": last.get("mode_accuracy"),
        "by_difficulty": [row for row in last["by_difficulty"] if row["policy"] == "auto"],
        "by_difficulty_forced": [row for row in last["by_difficulty"] if row["policy"] != "auto"],
        "before_rl": earlier[-1][1]["policies"] if earlier else {},
        "history": {name: evaluation["policies"] for name, evaluation in evaluations.items()},
        "stages": {name: seconds.get(name, 0.0) for name in STAGES},
        "seed": seed,
        "num_prompts": last["num_prompts"],
        "engine": last["engine"],
        "versions": last["versions"],
    }


def markdown(results: Mapping[str, Any]) -> str:
    """The report for a reader."""
    headline = results["headline"]
    low, high = headline["token_ratio_ci"]
    gap_low, gap_high = headline["accuracy_gap_ci"]
    sentence = (
        f"Left to decide, the model uses **{headline['token_ratio']:.0%}** of the tokens (95 % interval "
        f"{low:.0%} to {high:.0%}) that it uses when it always thinks; its accuracy differs by "
        f"**{100 * headline['accuracy_gap']:+.1f} points** ({100 * gap_low:+.1f} to {100 * gap_high:+.1f}). "
        f"Measured on {results['num_prompts']} held-out prompts, seed {results['seed']}, engine "
        f"{results['engine']}."
    )
    parts = [
        "# What the model learnt about thinking",
        sentence,
        "![accuracy over tokens](pareto.png)",
        "## Policies, stage by stage",
        _history_table(results["history"]),
        "## By family and difficulty, after the last stage",
        _level_table([*results["by_difficulty"], *results["by_difficulty_forced"]]),
        "## Time",
        _table(["part", "seconds"], [[name, f"{value:.0f}"] for name, value in results["stages"].items()]),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _history_table(history: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            stage,
            policy,
            f"{point['accuracy']:.3f} ({point['accuracy_ci'][0]:.3f} to {point['accuracy_ci'][1]:.3f})",
            f"{point['mean_tokens']:.1f}",
            f"{point['think_rate']:.2f}",
            f"{point['format_valid']:.3f}",
        ]
        for stage, policies in history.items()
        for policy, point in policies.items()
    ]
    return _table(
        ["stage", "policy", "accuracy (95 % interval)", "tokens", "think rate", "format valid"], rows
    )


def _level_table(levels: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            level["family"],
            str(level["difficulty"]),
            level["policy"],
            str(level["count"]),
            f"{level['think_rate']:.2f}",
            f"{level['accuracy']:.3f}",
            f"{level['mean_tokens']:.1f}",
        ]
        for level in sorted(levels, key=lambda level: (level["family"], level["difficulty"]))
    ]
    return _table(["family", "difficulty", "policy", "prompts", "think rate", "accuracy", "tokens"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
