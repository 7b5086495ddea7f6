"""What a stage needs memory for, beside its backbone."""

from dataclasses import dataclass
from typing import Literal

from katlit.frozen import Placement

Loss = Literal["log_probs", "uld", "jsd", "top_k"]


@dataclass(frozen=True)
class Needs:
    """What `katlit plan` counts for a stage.

    Attributes:
        losses: One entry for each time that logits are made; trained MTP modules take part in all.
        teacher: Name or directory of a frozen model of another shape.
        references: Frozen copies of the policy.
        placement: Where the weights of the frozen models are.
    """

    losses: tuple[Loss, ...] = ("log_probs",)
    teacher: str | None = None
    references: int = 0
    placement: Placement = "device"
