"""The table and the figure of `ablation_rl.py`; no benchmark by itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple, TypedDict

from _ablation import mean_and_interval, table

COLD_START = "cold start"  # the row of the model that all start from
DEFAULT = "process"  # what the others are compared with
TOKEN_RATIO = 0.7  # the headline: 30 % fewer tokens than thinking always,
ACCURACY_GAP = -0.01  # and no more than a point less accurate

METHOD = """# What the parts of stage 3 contribute

This page says what the advantage estimators and their parts are worth. It was made by
`python benchmarks/ablation_rl.py --steps {steps}` on the demo's task and models: {steps} steps each
from one cold start (seed {plan.cold_start_seed}), seeds {seeds}; all variants of a seed are trained on the
same questions. The settings are the demo's but for {plan.questions} training questions in place of 2,240: the
demo's 56 steps are less than an epoch, and a history acts from the second one on. `grpo` and `hipo` keep
forced modes, history and, where they have one, the bias.

Evaluated on {plan.evaluation:,} held-out questions at temperature 1; the columns are of the policy auto.
Means over the seeds ± half of their 95 % interval, by Student's t-distribution; differences are taken within
a seed. What the cold start varies by is sampling alone.

The headline is the recipe's, but against the one cold start, so that it stays where it is: at most
{ratio:.0%} of the tokens that the cold start takes when it always thinks ({goal.tokens:.1f}), and at least
its accuracy then, less a point ({goal.accuracy:.3f}). It is reached at the first of two validations in
a row where both hold, of one every {plan.validate_every} steps on {plan.validation} held-out questions. Where
not all seeds reach it, what each of them does is listed.

{table}
![accuracy over tokens, think rates, and the validations of all variants](ablation-rl.png)
"""


class Experiment(NamedTuple):
    """Seeds, numbers of questions and steps that all runs share."""

    cold_start_seed: int = 1
    questions: int = 800  # to train on
    evaluation: int = 800  # held out
    validation: int = 500  # held out
    validate_every: int = 5  # steps


class Policy(TypedDict):
    """How the model does on held-out questions; `think_rate` by difficulty."""

    accuracy: float
    tokens: float
    think_rate: dict[str, float]


class Validation(TypedDict):
    """The policy auto, as far as it is trained, on the validation questions."""

    step: int
    accuracy: float
    tokens: float


class Run(TypedDict):
    """What a trained model does when left to decide and when thinking is forced, and how it got there."""

    auto: Policy
    on: Policy
    curve: list[Validation]


class Headline(NamedTuple):
    """When the headline is reached: as many tokens at most, and at least that accuracy."""

    tokens: float
    accuracy: float

    def steps(self, curve: Sequence[Validation]) -> int | None:
        """The first validation at which it is reached and at the next one still; None where there is none."""
        held = [point["tokens"] <= self.tokens and point["accuracy"] >= self.accuracy for point in curve]
        pairs = zip(curve, held, held[1:], strict=False)
        return next((point["step"] for point, now, then in pairs if now and then), None)


def headline(references: Sequence[Run]) -> Headline:
    """What the cold start's forced thinking asks of a policy, in the mean over the seeds of sampling."""
    tokens = mean(one["on"]["tokens"] for one in references)
    accuracy = mean(one["on"]["accuracy"] for one in references)
    return Headline(TOKEN_RATIO * tokens, accuracy + ACCURACY_GAP)


def untrained(reference: Run) -> Validation:
    """The cold start on the validation questions, as step 0 of a run's validations."""
    return Validation(step=0, accuracy=reference["auto"]["accuracy"], tokens=reference["auto"]["tokens"])


def page(
    found: Mapping[str, Sequence[Run]], goal: Headline, plan: Experiment, seeds: Sequence[int], steps: int
) -> str:
    """The table, with means over seeds and their intervals, and how it came about."""
    difficulties = list(found[COLD_START][0]["auto"]["think_rate"])
    head = ["", "accuracy", f"accuracy − {DEFAULT}'s", "tokens", "tokens, auto / on"]
    head += [f"think rate, difficulty {level}" for level in difficulties]
    rows = [[*head, "steps to the headline"]]
    for variant, runs in found.items():
        pairs = zip(runs, found[DEFAULT], strict=True)
        gains = [one["auto"]["accuracy"] - other["auto"]["accuracy"] for one, other in pairs]
        rows.append(
            [
                variant,
                _cell([run["auto"]["accuracy"] for run in runs]),
                "" if variant in (COLD_START, DEFAULT) else _cell(gains, "+.3f"),
                _cell([run["auto"]["tokens"] for run in runs], ".1f"),
                _cell([run["auto"]["tokens"] / run["on"]["tokens"] for run in runs]),
                *(_cell([run["auto"]["think_rate"][level] for run in runs], ".2f") for level in difficulties),
                "" if variant == COLD_START else _steps_cell([goal.steps(run["curve"]) for run in runs]),
            ]
        )
    return METHOD.format(
        plan=plan,
        goal=goal,
        ratio=TOKEN_RATIO,
        steps=steps,
        seeds=", ".join(map(str, seeds)),
        table=table(rows),
    )


def _cell(values: Sequence[float], form: str = ".3f") -> str:
    middle, half = mean_and_interval(values)
    return f"{middle:{form}} ± {half:{form.removeprefix('+')}}"


def _steps_cell(steps: Sequence[int | None]) -> str:
    """Mean and interval where all seeds got there; else what each of them did."""
    reached = [float(step) for step in steps if step is not None]
    if len(reached) == len(steps):
        return _cell(reached, ".0f")
    return ", ".join("never" if step is None else str(step) for step in steps)


def figure(found: Mapping[str, Sequence[Run]], goal: Headline, path: Path) -> None:
    """Accuracy over tokens and think rate by difficulty at the end; accuracy and tokens on the way."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    picture = Figure(figsize=(12, 9), dpi=110, layout="constrained")
    (trade, rates), (accuracy, tokens) = picture.subplots(2, 2)
    colours = mpl.colormaps["tab10"]
    for index, (variant, runs) in enumerate(found.items()):
        look = {"color": colours(index), "label": variant}
        x, wide = mean_and_interval([run["auto"]["tokens"] for run in runs])
        y, high = mean_and_interval([run["auto"]["accuracy"] for run in runs])
        trade.errorbar(x, y, xerr=wide, yerr=high, fmt="o", capsize=3, **look)
        levels = list(runs[0]["auto"]["think_rate"])
        bars = [mean_and_interval([run["auto"]["think_rate"][level] for run in runs]) for level in levels]
        places = [int(level) + (index - len(found) / 2) * 0.11 for level in levels]
        heights, halves = zip(*bars, strict=True)
        rates.bar(places, heights, width=0.1, yerr=halves, capsize=2, **look)
        steps = [point["step"] for point in runs[0]["curve"]]  # none of the cold start
        for axes, name in ((accuracy, "accuracy"), (tokens, "tokens")):
            points = zip(*(run["curve"] for run in runs), strict=True)
            means = [mean(point[name] for point in of) for of in points]
            axes.plot(steps, means, ".-", color=colours(index))
    for axes, limit in ((accuracy, goal.accuracy), (tokens, goal.tokens)):
        axes.axhline(limit, color="0.4", linestyle="--")
        axes.set_xlabel("steps (broken line: the headline)")
    accuracy.set_ylabel("accuracy in validation, mean over seeds")
    tokens.set_ylabel("tokens in validation, mean over seeds")
    trade.set_xlabel("tokens of a response (95 % interval)")
    trade.set_ylabel("accuracy (95 % interval)")
    picture.legend(*trade.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    rates.set_xlabel("difficulty")
    rates.set_xticks([int(level) for level in found[COLD_START][0]["auto"]["think_rate"]])
    rates.set_ylabel("think rate (95 % interval)")
    rates.set_ylim(0, 1.05)
    for axes in picture.axes:
        axes.grid(alpha=0.3)
    picture.savefig(path)
