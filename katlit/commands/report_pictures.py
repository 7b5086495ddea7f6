"""The pictures of a report: accuracy over tokens, and curves over the steps of a stage."""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Policy -> colour, marker, words; the one that decides is the story, the others its bounds.
POLICIES = {
    "auto": ("#0b5cad", "o", "left to decide (auto)"),
    "on": ("#c2570c", "^", "made to think (on)"),
    "off": ("#5f6b76", "s", "kept from thinking (off)"),
}
CURVES = ("#0b5cad", "#c2570c", "#2e7d32", "#7b3fa0", "#5f6b76", "#b8860b")
# Points with less than this share of the best accuracy would squeeze the rest; a line below names them.
_LEAST = 0.5

Evaluations = Mapping[str, Mapping[str, Any]]  # by stage, in order
Series = Mapping[str, Sequence[tuple[float, float]]]  # name -> (step, value)


def pareto(evaluations: Evaluations) -> "Figure":
    """Accuracy over mean tokens: the path of each policy through the stages, with 95 % intervals."""
    figure = _figure(7.2, 4.8)
    axes = figure.subplots()
    best = max(of["policies"][name]["accuracy"] for of in evaluations.values() for name in POLICIES)
    outside = []
    for policy in reversed(POLICIES):
        for stage, point in _path(axes, evaluations, policy):
            if point["accuracy"] < _LEAST * best:
                outside.append(
                    f"{stage} {policy} {point['accuracy']:.2f} at {point['mean_tokens']:.0f} tokens"
                )
    _limit(axes, evaluations, _LEAST * best)
    axes.set_xlabel("tokens of a response (mean)")
    axes.set_ylabel("accuracy on held-out prompts")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", framealpha=0.95, reverse=True)
    axes.set_title(_plain("the model after: " + " → ".join(evaluations)), fontsize=10, loc="left")
    if outside:
        note = f"below the picture: {_plain('; '.join(outside))}"
        figure.supxlabel(note, fontsize=7, color="0.35", wrap=True)
    return figure


def _path(axes: "Axes", evaluations: Evaluations, policy: str) -> list[tuple[str, Mapping[str, float]]]:
    """Draw one policy's path; its points."""
    colour, marker, words = POLICIES[policy]
    points = [(stage, of["policies"][policy]) for stage, of in evaluations.items()]
    leads = policy == "auto"
    x, y = ([point[key] for _, point in points] for key in ("mean_tokens", "accuracy"))
    axes.plot(x, y, color=colour, linewidth=2.4 if leads else 0.8, alpha=1.0 if leads else 0.35, zorder=2)
    for number, (stage, point) in enumerate(points, start=1):
        last = number == len(points)
        axes.errorbar(
            [point["mean_tokens"]], [point["accuracy"]],
            xerr=_distance(point, "mean_tokens"), yerr=_distance(point, "accuracy"),
            fmt=marker, markersize=10 if leads else 6, color=colour, ecolor=colour, elinewidth=0.8, capsize=2,
            alpha=1.0 if leads or last else 0.45, zorder=4 if leads else 3, label=words if last else None,
        )  # fmt: skip
        if leads:
            axes.annotate(
                _plain(stage.replace("_", " ")), (point["mean_tokens"], point["accuracy"]),
                xytext=(10, 7), textcoords="offset points", color=colour, fontsize=9.5, zorder=5,
                fontweight="bold" if last else "normal", annotation_clip=True,
            )  # fmt: skip
    return points


def _distance(point: Mapping[str, Any], key: str) -> list[list[float]]:
    low, high = point[f"{key}_ci"]
    return [[max(0.0, point[key] - low)], [max(0.0, high - point[key])]]


def _limit(axes: "Axes", evaluations: Evaluations, least: float) -> None:
    """Show what lies above `least`, with some room around."""
    seen = [
        of["policies"][name]
        for of in evaluations.values()
        for name in POLICIES
        if of["policies"][name]["accuracy"] >= least
    ]
    low, high = (pick(point["accuracy"] for point in seen) for pick in (min, max))
    left, right = (pick(point["mean_tokens"] for point in seen) for pick in (min, max))
    room, width = max(high - low, 0.05), max(right - left, 1.0)
    axes.set_ylim(low - 0.2 * room, min(1.02, high + 0.25 * room))
    axes.set_xlim(left - 0.12 * width, right + 0.18 * width)


def curves(title: str, series: Series) -> "Figure":
    """Values over the steps; where there are many, a mean over some neighbours is drawn over them."""
    figure = _figure(5.4, 3.0)
    axes = figure.subplots()
    for colour, (name, points) in zip(cycle(CURVES), series.items(), strict=False):
        steps, values = [step for step, _ in points], [value for _, value in points]
        smooth = smoothed(values)
        if len(values) > len(CURVES):
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.3)
        axes.plot(steps, smooth, color=colour, linewidth=2, label=_plain(name))
    axes.set_title(_plain(title), fontsize=10, loc="left")
    axes.set_xlabel("step")
    axes.grid(alpha=0.25)
    if len(series) > 1:
        axes.legend(fontsize=8, framealpha=0.9)
    return figure


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean over a window of a tenth of the values around each; narrower at the ends."""
    last = len(values) - 1
    means = []
    for index in range(len(values)):
        half = min(len(values) // 20, index, last - index)
        part = values[index - half : index + half + 1]
        means.append(sum(part) / len(part))
    return means


def png(figure: "Figure") -> bytes:
    """A picture as a file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    return image.getvalue()


def svg(figure: "Figure", name: str) -> str:
    """A picture to stand in a page: no prolog, no address of another place, ids of its own by its name."""
    import matplotlib as mpl

    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata=nothing)
    _, start, body = text.getvalue().partition("<svg")
    head, end, rest = body.partition(">")
    head = re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", head)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    return f'{start}{head} role="img"{end}{rest}'


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(text: str) -> str:
    """A text in which a dollar is no sign of mathematics."""
    return text.replace("$", r"\$")
