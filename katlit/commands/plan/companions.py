"""Frozen models beside the one that is trained: what they take where their weights are placed."""

from collections.abc import Sequence
from dataclasses import dataclass

from katlit.model.frozen import Placement
from katlit.model.shape import Shape


@dataclass(frozen=True)
class Companions:
    """Bytes of one device; `host` are those that it keeps in host memory."""

    lasting: int
    gathered: int  # what comes for a forward pass and goes
    host: int = 0


def companions(shapes: Sequence[Shape], number: int, placement: Placement, devices: int) -> Companions:
    """Count frozen models.

    Layer by layer they come as FSDP2 fetches them: embedding, head and norms, two layers (one is fetched
    ahead where there are several devices), and the copy of each head, which the losses use until their
    backward pass.

    Args:
        shapes: One for each model.
        number: Bytes of a weight.
        placement: Where the weights are.
        devices: All of them.
    """
    whole = number * sum(shape.parameters for shape in shapes)
    if placement == "device" or (placement == "sharded" and devices == 1):
        return Companions(whole, 0)
    share = -(-whole // devices)
    layers = min(2, devices)
    gathered = max((shape.root + layers * shape.layer for shape in shapes), default=0)
    gathered += sum(shape.embedding for shape in shapes)
    if placement == "cpu":
        return Companions(0, number * gathered, share)
    return Companions(share, number * gathered)
