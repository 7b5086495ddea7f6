"""What a stage needs memory for, beside its backbone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from katlit.model.frozen import FrozenDtype, Placement

Loss = Literal["log_probs", "uld", "jsd", "top_k"]


@dataclass(frozen=True)
class Needs:
    """What `katlit plan` counts for a stage.

    Attributes:
        losses: One entry for each time that logits are made; trained MTP modules take part in all.
        parts: In how many parts, each of some of the targets, a loss is computed.
        teachers: Frozen models of other shapes: name or directory by the setting that names it.
        references: Frozen copies of the policy.
        placement: Where the weights of the frozen models are.
        dtype: Type of their weights.
        pass_tokens: Most tokens of a forward pass, where a micro-batch is run in several.
    """

    losses: tuple[Loss, ...] = ("log_probs",)
    parts: int = 1
    teachers: Mapping[str, str] = field(default_factory=dict)
    references: int = 0
    placement: Placement = "device"
    dtype: FrozenDtype = "auto"
    pass_tokens: int | None = None
