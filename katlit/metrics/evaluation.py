"""What is measured of the three policies (recipe §6), from one response a prompt and policy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from katlit.metrics.bootstrap import interval, resampled_means
from katlit.metrics.policy import PolicyMetrics
from katlit.text.protocol import Thinking


@dataclass(frozen=True, slots=True)
class Answered:
    """One scored response. `tokens` counts all after `<judge>` , what was forced included.

    Where the accuracy could not be judged, `correct` is False and `unjudged` True.
    """

    prompt_id: str
    family: str
    difficulty: int
    policy: Thinking
    mode: str | None  # "on", "off", or None where the response has none
    correct: bool
    tokens: int
    valid: bool
    truncated: bool
    unjudged: bool = False


def summarize(responses: Sequence[Answered], resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Figures of each policy, their comparison, and the figures by family and difficulty.

    Args:
        responses: Each policy answers the same prompts.
        resamples: Resamples of the bootstrap behind the 95 % confidence intervals `…_ci`.
        seed: Seed of the bootstrap.

    Returns:
        `policies`, `headline` (tokens of auto over tokens of on, accuracy of auto minus that of on),
        `mode_accuracy` (the share of prompts on which auto chose the cheaper mode that is right, of those
        that some forced mode solves) and `by_difficulty`. Where auto or on was not evaluated the
        headline is null, as is the mode accuracy without all three.
    """
    by_policy: dict[str, dict[str, Answered]] = {}
    for response in responses:
        by_policy.setdefault(response.policy, {})[response.prompt_id] = response
    ids = sorted(next(iter(by_policy.values())))
    rows = {name: [answers[prompt_id] for prompt_id in ids] for name, answers in by_policy.items()}
    values = torch.tensor(
        [[float(getattr(answer, field)) for answer in answers]
         for answers in rows.values() for field in ("correct", "tokens")]
    )  # fmt: skip
    means = resampled_means(values, resamples, seed)
    accuracy = {name: means[:, 2 * index] for index, name in enumerate(rows)}
    tokens = {name: means[:, 2 * index + 1] for index, name in enumerate(rows)}
    means_of = {name: figures(answers) for name, answers in rows.items()}
    headline = None
    if "auto" in rows and "on" in rows:
        headline = {
            "token_ratio": means_of["auto"]["mean_tokens"] / means_of["on"]["mean_tokens"],
            "token_ratio_ci": interval(tokens["auto"] / tokens["on"]),
            "accuracy_gap": means_of["auto"]["accuracy"] - means_of["on"]["accuracy"],
            "accuracy_gap_ci": interval(accuracy["auto"] - accuracy["on"]),
        }
    return {
        "policies": {
            name: figure | {"accuracy_ci": interval(accuracy[name]), "mean_tokens_ci": interval(tokens[name])}
            for name, figure in means_of.items()
        },
        "headline": headline,
        "mode_accuracy": _mode_accuracy(rows),
        "by_difficulty": _by_difficulty(rows),
    }


def figures(answers: Sequence[Answered]) -> dict[str, float]:
    """Means over responses of one policy."""
    metrics = PolicyMetrics()
    metrics.update(
        torch.tensor([answer.correct for answer in answers]),
        torch.tensor([answer.tokens for answer in answers]),
        torch.tensor([answer.mode == "on" for answer in answers]),
        torch.tensor([answer.valid for answer in answers]),
        torch.tensor([answer.unjudged for answer in answers]),
    )
    means = {name: float(value) for name, value in metrics.compute().items()}
    return means | {"truncated": sum(answer.truncated for answer in answers) / len(answers)}


def _mode_accuracy(rows: dict[str, list[Answered]]) -> float | None:
    if not {"auto", "on", "off"} <= rows.keys():
        return None
    hits = []
    for auto, on, off in zip(rows["auto"], rows["on"], rows["off"], strict=True):
        if off.correct or on.correct:
            hits.append(auto.mode == ("off" if off.correct else "on"))
    return sum(hits) / len(hits) if hits else None


def _by_difficulty(rows: dict[str, list[Answered]]) -> list[dict[str, Any]]:
    table = []
    for name, answers in rows.items():
        levels = sorted({(answer.family, answer.difficulty) for answer in answers})
        for family, difficulty in levels:
            chosen = [a for a in answers if (a.family, a.difficulty) == (family, difficulty)]
            level = figures(chosen)
            table.append(
                {"policy": name, "family": family, "difficulty": difficulty, "count": len(chosen)}
                | {key: level[key] for key in ("think_rate", "accuracy", "mean_tokens", "format_valid")}
            )
    return table
