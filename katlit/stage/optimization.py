"""AdamW and a learning-rate schedule, the same for all stages."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from katlit.errors import UserError, require

# Above, a mean of squares in bfloat16 cannot fall any more: a decay by less than a 256th is rounded away.
_LARGEST_BETA = 0.99


@dataclass(frozen=True)
class Optimization:
    """Settings of optimizer and schedule.

    Attributes:
        learning_rate: Its peak.
        weight_decay: Weight decay of matrices; norms and biases have none.
        beta1: AdamW's decay of the mean gradient.
        beta2: AdamW's decay of the mean squared gradient.
        warmup_steps: Optimizer steps over which the learning rate rises linearly to its peak.
        schedule: What the learning rate does after the warm-up, until the last step.
        min_ratio: Where `cosine` and `linear` end, as a share of the peak.
        kahan_sum: For weights in bfloat16 (`trainer.precision: bf16-true`), in which small updates are
            lost to rounding: a second bfloat16 number keeps what each weight is owed (optimi's AdamW; two
            bytes a weight more). A weight so moves where the learning rate is above 4e-6 of it.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    min_ratio: float = 0.1
    kahan_sum: bool = False

    def __post_init__(self) -> None:
        """Refuse what AdamW or the schedule cannot use."""
        for key in ("learning_rate", "weight_decay", "warmup_steps"):
            value = getattr(self, key)
            require(value >= 0, key, value, "0 or more")
        for key in ("beta1", "beta2"):
            value = getattr(self, key)
            require(0 <= value < 1, key, value, "a number from 0 to below 1")
        require(0 <= self.min_ratio <= 1, "min_ratio", self.min_ratio, "a share from 0 to 1")
        if self.kahan_sum:
            why = "with kahan_sum, since bfloat16 weights and means round away the rest"
            require(self.weight_decay == 0, "weight_decay", self.weight_decay, f"0 {why}")
            require(self.beta2 <= _LARGEST_BETA, "beta2", self.beta2, f"{_LARGEST_BETA} or less {why}")


def build_optimizer(module: nn.Module, settings: Optimization) -> Optimizer:
    """AdamW over the trainable parameters; only those of two dimensions or more are decayed.

    Raises:
        UserError: where `kahan_sum` meets weights that are not in bfloat16.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]  # DeepSpeed drops an empty one, schedulers do not
    betas = (settings.beta1, settings.beta2)
    if not settings.kahan_sum:
        return AdamW(groups, lr=settings.learning_rate, betas=betas)
    if dtypes := {str(p.dtype).removeprefix("torch.") for p in parameters} - {"bfloat16"}:
        raise UserError(
            f"optimization.kahan_sum: true, but weights are trained in {', '.join(sorted(dtypes))}, which "
            "needs no such sum; set trainer.precision: bf16-true (without LoRA), or kahan_sum: false"
        )
    from optimi import AdamW as KahanAdamW

    return KahanAdamW(groups, lr=settings.learning_rate, betas=betas, eps=1e-8, kahan_sum=True)


def learning_rate_factor(step: int, total_steps: float, settings: Optimization) -> float:
    """The share of the peak learning rate at a step.

    Args:
        step: Optimizer steps done so far.
        total_steps: Length of training; only `cosine` and `linear` look at it.
        settings: Warm-up, schedule and its end.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    progress = min((step - settings.warmup_steps) / max(total_steps - settings.warmup_steps, 1), 1.0)
    remaining = (1 + math.cos(math.pi * progress)) / 2 if settings.schedule == "cosine" else 1 - progress
    return settings.min_ratio + (1 - settings.min_ratio) * remaining


def build_schedule(optimizer: Optimizer, total_steps: float, settings: Optimization) -> LambdaLR:
    """A schedule to be stepped once an optimizer step.

    Args:
        optimizer: Its learning rate is the peak.
        total_steps: Length of training in optimizer steps; infinite where no end is known.
        settings: Warm-up, schedule and its end.

    Raises:
        UserError: where the schedule needs an end and there is none.
    """
    if settings.schedule != "constant" and math.isinf(total_steps):
        raise UserError(
            f"optimization.schedule {settings.schedule!r} needs an end; set trainer.max_steps or max_epochs"
        )
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, total_steps, settings))


def follow_settings(schedule: LambdaLR, settings: Optimization) -> dict[str, tuple[object, object]]:
    """Have an optimizer and its schedule go by the settings, where a checkpoint has brought its own.

    Args:
        schedule: Schedule of `build_schedule`, over an optimizer of `build_optimizer`.
        settings: The present settings.

    Returns:
        What was otherwise: by the name of the setting, its value in the checkpoint and now.

    Raises:
        UserError: where `kahan_sum` is otherwise, which changes what an optimizer keeps.
    """
    groups = schedule.optimizer.param_groups
    summed = bool(groups[0].get("kahan_sum"))
    if summed != settings.kahan_sum:
        raise UserError(
            f"optimization.kahan_sum: {str(settings.kahan_sum).lower()}, but the checkpoint is of a run with "
            f"{str(summed).lower()}; go on with that, or start from its weights by backbone.init_from"
        )
    rate, decay, betas = groups[0]["initial_lr"], groups[0]["weight_decay"], _betas(groups[0])
    was = {"learning_rate": rate, "weight_decay": decay, "beta1": betas[0], "beta2": betas[1]}
    changes = {key: (value, getattr(settings, key)) for key, value in was.items()}
    changes = {key: (old, new) for key, (old, new) in changes.items() if old != new}
    if changes:
        groups[0]["weight_decay"] = settings.weight_decay  # that of the matrices
        schedule.base_lrs = [settings.learning_rate] * len(groups)
        for group, factor in zip(groups, schedule.lr_lambdas, strict=True):
            group["initial_lr"] = settings.learning_rate
            group["lr"] = settings.learning_rate * factor(schedule.last_epoch)
            apart = {"beta1": settings.beta1, "beta2": settings.beta2}
            group.update(apart if summed else {"betas": tuple(apart.values())})
    return changes


def _betas(group: dict[str, Any]) -> tuple[float, float]:
    """Both, which torch keeps together and optimi apart."""
    both = group["betas"] if "betas" in group else (group["beta1"], group["beta2"])
    return both[0], both[1]
