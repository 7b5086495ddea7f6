"""Whether the policy still uses both modes, by difficulty and by prompt; a warning where it does not."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from katlit.callbacks.step_callback import StepCallback
from katlit.errors import UserError
from katlit.parallel.collectives import gathered

logger = logging.getLogger(__name__)

Counts = dict[str, int]


class ModeWatch(StepCallback):
    """Logs which modes the rollouts chose by themselves; those of a forced mode do not count.

    For every optimizer step, over all ranks: `modes/think_rate/difficulty-<d>` for each difficulty of the
    step's prompts, `modes/one_mode_groups`, the share of groups that chose a single mode, and
    `modes/entropy`, in nats, of the share of think-on among all that chose one (0.69 where both are equally
    frequent).

    A group of one mode is no fault where other groups have the other: then the policy decides by the prompt.
    So collapsed is a policy whose entropy over all prompts stays low. That is warned of once, with the
    settings that work against it (our choice).

    Args:
        min_entropy: The policy counts as collapsed below it; 0.1 are 2 % of one mode.
        patience: Optimizer steps in a row after which it is warned of.
    """

    def __init__(self, min_entropy: float = 0.1, patience: int = 20) -> None:
        if not 0 <= min_entropy <= math.log(2) or patience < 1:
            raise UserError(
                f"ModeWatch: min_entropy {min_entropy}, patience {patience}; give an entropy from 0 to "
                "0.69 (ln 2) and at least 1 step"
            )
        self.min_entropy = min_entropy
        self.patience = patience
        self.step_rates: tuple[int, dict[str, float]] = (0, {})  # step, and its metrics that trackers get
        self._low = 0  # steps in a row
        self._warned = False

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        counts = added(gathered(mode_counts(batch)))
        rates = mode_rates(counts)
        for name, value in rates.items():
            pl_module.log(f"modes/{name}", value, on_step=True, on_epoch=False, batch_size=1)
        self.step_rates = (trainer.global_step, _named(think_rates(counts)))
        _log_think_rates(trainer, self.step_rates[1])
        if self._collapses(counts, rates) and trainer.is_global_zero:
            rate = counts["on"] / (counts["on"] + counts["off"])
            logger.warning("%s", advice(rate, self._low, getattr(pl_module, "estimator", None)))

    def _collapses(self, counts: Counts, rates: Mapping[str, float]) -> bool:
        """Whether the patience ends with this step."""
        if counts["on"] + counts["off"] == 0 or self._warned:
            return False
        self._low = self._low + 1 if rates["entropy"] < self.min_entropy else 0
        self._warned = self._low >= self.patience
        return self._warned

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"low": self._low, "warned": self._warned}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._low, self._warned = state_dict["low"], state_dict["warned"]


def _named(rates: Mapping[int, float]) -> dict[str, float]:
    return {f"modes/think_rate/difficulty-{difficulty}": rate for difficulty, rate in rates.items()}


def _log_think_rates(trainer: Trainer, rows: dict[str, float]) -> None:
    """Past the module's log, which would repeat a difficulty's last value in steps without such prompts."""
    every, step = trainer.log_every_n_steps, trainer.global_step
    if not every or step % every:
        return
    for tracker in trainer.loggers:
        tracker.log_metrics(rows, step=step - 1)  # as Lightning counts


def advice(think_rate: float, steps: int, estimator: object) -> str:
    """What to turn where one mode has died out.

    Args:
        think_rate: Share of the free rollouts that think.
        steps: Optimizer steps for which one mode was hardly chosen.
        estimator: The stage's; only what it has is named.
    """
    turns = [
        "raise forced_share of the rollout callback, so that the other mode is seen and valued",
        *_estimator_advice(think_rate > 0.5, estimator),
        "lower model.init_args.aggregation.judge_weight",
    ]
    return (
        f"the modes have collapsed: {think_rate:.0%} of the free rollouts think, for {steps} steps. "
        f"In this order: {'; '.join(turns)}"
    )


def _estimator_advice(thinks: bool, estimator: object) -> list[str]:
    """What to turn of the estimator, whose bias favours think-off."""
    key = "model.init_args.estimator"
    if not hasattr(estimator, "bias"):
        other = f"set {key} to one with a bias against thinking, such as katlit.advantages.Process"
        return [other] if thinks else []
    if thinks:
        return [f"raise {key}.init_args.bias"]
    solved = getattr(estimator, "bias_when_solved", False)
    also = f" (and set {key}.init_args.bias_when_solved to false)" if solved else ""
    return [f"lower {key}.init_args.bias{also}"]


def mode_counts(batch: Mapping[str, Any]) -> Counts:
    """Counts of the rollouts whose mode was not forced.

    Args:
        batch: With `modes`, `group_ids`, `difficulties` and `forced`.

    Returns:
        `on` and `off`; `groups` that chose a mode, and `one_mode` of them; `on/<d>` and all, `free/<d>`, of
        each difficulty.
    """
    free = ~batch["forced"].cpu()
    names = ("modes", "group_ids", "difficulties")
    modes, groups, difficulties = (batch[name].cpu()[free] for name in names)
    counts = {"on": _number(modes == 1), "off": _number(modes == 0), "groups": 0, "one_mode": 0}
    for group in groups.unique():
        own = modes[(groups == group) & (modes >= 0)].unique()
        counts["groups"] += len(own) > 0
        counts["one_mode"] += len(own) == 1
    for difficulty in difficulties.unique().tolist():
        own = modes[difficulties == difficulty]
        counts |= {f"on/{difficulty}": _number(own == 1), f"free/{difficulty}": len(own)}
    return counts


def mode_rates(counts: Mapping[str, int]) -> dict[str, float]:
    """Share of groups with one mode, and entropy, from counts of all ranks; 0 where there was nothing."""
    on, off = counts["on"], counts["off"]
    shares = torch.tensor([on, off], dtype=torch.float64) / max(on + off, 1)
    return {
        "one_mode_groups": counts["one_mode"] / max(counts["groups"], 1),
        "entropy": float(-torch.special.xlogy(shares, shares).sum()),
    }


def think_rates(counts: Mapping[str, int]) -> dict[int, float]:
    """The share that thinks, for each difficulty that was seen."""
    seen = sorted(int(name.removeprefix("free/")) for name in counts if name.startswith("free/"))
    return {difficulty: counts[f"on/{difficulty}"] / counts[f"free/{difficulty}"] for difficulty in seen}


def added(parts: Iterable[Mapping[str, int]]) -> Counts:
    """The sum of the counts of several ranks, which need not have the same names."""
    total: Counts = {}
    for part in parts:
        for name, number in part.items():
            total[name] = total.get(name, 0) + number
    return total


def _number(mask: Tensor) -> int:
    return int(mask.sum())
