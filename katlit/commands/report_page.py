"""`report.html`: all that a report has in one file, without scripts and without anything from elsewhere.

What a model, a question or a file name says is text for the page, never a part of it: the template escapes
all but our own pictures, and the page's policy lets a browser run and load nothing.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from katlit.commands.report_parts import Answers, Labels, Metrics, chosen
from katlit.commands.report_pictures import POLICIES, Evaluations, Series, curves, pareto, svg

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_LONGEST = 4000  # characters of a part of an answer
# Title of a picture -> the metrics in it; one that ends in "-" stands for all that begin so.
_PICTURES = {
    "reward": {"rollout/reward": "reward", "rollout/accuracy": "accuracy"},
    "think rate by difficulty": {"rollout/think_rate": "all", "modes/think_rate/difficulty-": "difficulty "},
    "tokens of a response": {"rollout/mean_tokens": "tokens"},
    "loss": {"train/loss": "loss"},
}


def page(
    results: Mapping[str, Any],
    evaluations: Evaluations,
    answers: Mapping[str, Answers],
    metrics: Mapping[str, Metrics],
    labels: Mapping[str, Labels],
) -> str:
    """The page.

    Args:
        results: The content of `report.json`.
        evaluations: Evaluation of each stage.
        answers: Responses of each stage, as far as they were kept.
        metrics: Metrics of each stage by step, as far as they were kept.
        labels: What became of the questions of each labelled stage.
    """
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    return template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        headline=headline(results),
        pareto=svg(pareto(evaluations), "pareto"),
        policies=_policies(results["history"]),
        levels=_levels([*results["by_difficulty"], *results["by_difficulty_forced"]]),
        curves=[(stage, _curves(stage, rows)) for stage, rows in metrics.items() if rows],
        questions=_questions(answers),
        labels=[(stage, _label(label)) for stage, label in labels.items()],
        time=", ".join(f"{name} {_clock(value)}" for name, value in results["stages"].items() if value),
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
    )


def headline(results: Mapping[str, Any]) -> dict[str, Any]:
    """The result in a sentence, in numbers, and how it was measured."""
    found, auto = results["headline"], results["policies"]["auto"]
    (low, high), (worse, better) = found["token_ratio_ci"], found["accuracy_gap_ci"]
    gap = 100 * found["accuracy_gap"]
    return {
        "sentence": f"Left to decide, the model uses {found['token_ratio']:.0%} of the tokens that it uses "
        f"when it always thinks, and its accuracy differs by {gap:+.1f} points.",
        "numbers": [
            (f"{found['token_ratio']:.0%}", f"of the tokens of always thinking ({low:.0%} to {high:.0%})"),
            (f"{gap:+.1f}", f"points of accuracy against it ({100 * worse:+.1f} to {100 * better:+.1f})"),
            (f"{auto['think_rate']:.0%}", "of the questions are thought about"),
            (f"{auto['accuracy']:.1%}", "of the answers are right"),
        ],
        "measured": f"Measured on {results['num_prompts']} held-out questions, seed {results['seed']}, "
        f"engine {results['engine']}; in brackets 95 % intervals.",
    }


def _policies(history: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage, "policy": policy, "first": number == 0,
            "accuracy": f"{point['accuracy']:.3f}", "tokens": f"{point['mean_tokens']:.1f}",
            "interval": "{:.3f} to {:.3f}".format(*point["accuracy_ci"]),
            "think_rate": f"{point['think_rate']:.2f}", "format_valid": f"{point['format_valid']:.3f}",
        }
        for stage, policies in history.items()
        for number, (policy, point) in enumerate(policies.items())
    ]  # fmt: skip


def _levels(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each family and difficulty, with the policies side by side."""
    found: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["family"], row["difficulty"]), {})[row["policy"]] = row
    return [
        [family, str(difficulty), str(of["auto"]["count"]), f"{of['auto']['think_rate']:.2f}"]
        + [f"{of[policy]['accuracy']:.3f}" if policy in of else "" for policy in POLICIES]
        + [f"{of[policy]['mean_tokens']:.1f}" if policy in of else "" for policy in POLICIES]
        for (family, difficulty), of in sorted(found.items())
        if "auto" in of
    ]


def _curves(stage: str, rows: Metrics) -> list[str]:
    drawn = []
    for title, wanted in _PICTURES.items():
        series = _series(rows, wanted)
        if series:
            drawn.append(svg(curves(title, series), f"{stage} {title}"))
    return drawn


def _series(rows: Metrics, wanted: Mapping[str, str]) -> Series:
    """The values of the wanted metrics by step; without those that were never logged."""
    found: dict[str, list[tuple[float, float]]] = {}
    names = sorted({name for row in rows for name in row}, key=_by_number)
    for prefix, words in wanted.items():
        for name in names:
            if name == prefix or (prefix.endswith("-") and name.startswith(prefix)):
                points = [(row["step"], row[name]) for row in rows if name in row]
                found[words + name.removeprefix(prefix)] = points
    return found


def _by_number(name: str) -> list[tuple[int, str]]:
    """What sorts difficulty 10 after difficulty 2."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]


def _questions(answers: Mapping[str, Answers]) -> list[dict[str, Any]]:
    questions = []
    for prompt_id in chosen(answers):
        rows = {stage: [row for row in of if row["prompt_id"] == prompt_id] for stage, of in answers.items()}
        first = next(row for of in rows.values() for row in of)
        questions.append(
            {
                "title": f"{first['family']}, difficulty {first['difficulty']}: {first['question'][:120]}",
                "question": first["question"],
                "reference": first["reference"],
                "stages": [(stage, [_answer(row) for row in of]) for stage, of in rows.items() if of],
            }
        )
    return questions


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    verdict = "not judged" if row["unjudged"] else "right" if row["correct"] else "wrong"
    parts = [(name, row[name]) for name in ("judge", "thinking", "answer") if row[name]]
    if row["answer"] is None:
        parts = [("all that it wrote, which has no answer", row["text"])]
    return {
        "policy": row["policy"], "verdict": verdict, "tokens": row["tokens"], "mode": row["mode"],
        "parts": [(name, _shortened(text)) for name, text in parts],
    }  # fmt: skip


def _shortened(text: str) -> str:
    more = len(text) - _LONGEST
    return text if more <= 0 else f"{text[:_LONGEST]}\n… ({more} more characters)"


def _label(label: Labels) -> dict[str, Any]:
    records, dropped = label["records"], sum(row["count"] for row in label["rejected"])
    asked = {"on": "think", "off": "answer at once"}
    return {
        "sentence": f"{label['labelled']} of {label['prompts']} questions got a label: {records['on']} "
        f"records that think, {records['off']} that do not. {dropped} replies were not kept.",
        "rejected": [
            [row["count"], asked[row["asked"]], row["reason"], row["model"]]
            for row in sorted(label["rejected"], key=lambda row: -row["count"])
        ],
        "examples": [
            {"title": "{reason}, think-{asked}: {why} ({prompt})".format(**row), "reply": row["reply"]}
            for row in label["examples"]
        ],
    }


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
