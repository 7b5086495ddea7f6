"""What lasts on one device: weights, gradients, optimizer state, and frozen models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from katlit.commands.plan.precision import Precision, precision_of
from katlit.model.frozen import Placement
from katlit.model.shape import Shape

Strategy = Literal["single", "ddp", "z1", "z2", "z3", "fsdp2"]
_FLOAT32 = 4
MAX_LIVE = 10**9  # parameters that DeepSpeed's stage 3 keeps gathered at most, its default


@dataclass(frozen=True)
class Split:
    """How a strategy divides a model over the devices.

    Attributes:
        strategy: What trains.
        devices: All of them, on all nodes.
        offload_optimizer: Optimizer state in host memory.
        offload_parameters: Weights in host memory.
        bucket: Numbers in one of DeepSpeed's two buckets of gradients.
    """

    strategy: Strategy = "single"
    devices: int = 1
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket: int = 2**28

    def share(self, number: int, *strategies: Strategy) -> int:
        """A device's part of a number that these strategies divide; rounded up."""
        return -(-number // self.devices) if self.strategy in strategies else number


@dataclass(frozen=True)
class States:
    """Bytes of one device; `host` are those that it keeps in host memory."""

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    update: int  # what the optimizer's step needs for a moment
    host: int = 0
    start: int = 0  # weights whole on the device, alone there, before they are split


def strategy_precision(dtype: str, word: str, strategy: Strategy) -> Precision:
    """What a dtype of the backbone and a word of the trainer come to under a strategy."""
    return precision_of(dtype, word, zero=strategy.startswith("z"), fsdp2=strategy == "fsdp2")


def states(
    shape: Shape, trained: int, precision: Precision, split: Split, adapters: int | None = None
) -> States:
    """Count the lasting memory, and what a strategy gathers.

    Args:
        shape: Shape of the model.
        trained: Parameters with a gradient, the adapters' left out.
        precision: Bytes of each number.
        split: Strategy and devices.
        adapters: Parameters of LoRA adapters, in float32, beside frozen weights; None: there are none.
    """
    weights, beside = precision.weights, _FLOAT32 * (adapters or 0)
    gradients = split.share(trained * weights + beside, "z2", "z3", "fsdp2")
    if split.strategy == "ddp":
        gradients *= 2  # DDP's buckets are a copy
    kept = trained * (precision.master + precision.states) + 2 * beside
    updated = trained * max(weights, precision.master) + beside
    loaded = shape.total * weights + beside
    whole = States(
        parameters=split.share(loaded, "z3", "fsdp2"),
        gradients=gradients,
        optimizer=split.share(kept, "z1", "z2", "z3", "fsdp2"),
        gathered=_gathered(shape, trained + (adapters or 0), precision, split, frozen=adapters is not None),
        update=split.share(updated, "z1", "z2", "z3", "fsdp2"),
        start=_start(loaded, split),
    )
    return _offloaded(whole, split)


def _start(loaded: int, split: Split) -> int:
    """Weights that are whole on the device before they are split.

    FSDP2 brings a unit at a time. DeepSpeed casts the model that we loaded, moves it to the device
    (`_configure_distributed_model` of its engine), and only then splits it, or sends it back to be offloaded.
    """
    return loaded if split.strategy == "z3" else 0


def _gathered(shape: Shape, trained: int, precision: Precision, split: Split, *, frozen: bool) -> int:
    """Whole weights and gradients that come and go.

    FSDP2 holds embedding, head and norms, and two layers (one is fetched ahead); as gradients the former and
    one layer, unless they are frozen; with mixed precision both in half, and the largest unit's gradients
    once more to be reduced in float32. DeepSpeed holds two buckets of gradients and, at stage 3, the
    parameters it lets live.
    """
    if split.strategy == "fsdp2" and split.devices > 1:
        weights = precision.compute * (shape.root + 2 * shape.layer)
        if frozen:
            return weights
        reduced = _FLOAT32 * max(shape.root, shape.layer) if precision.mixed else 0
        return weights + precision.compute * (shape.root + shape.layer) + reduced
    if split.strategy not in ("z1", "z2", "z3"):
        return 0
    live = min(shape.total, max(MAX_LIVE, shape.embedding + shape.layer)) if split.strategy == "z3" else 0
    return precision.weights * (2 * min(trained, split.bucket) + live)


def _offloaded(whole: States, split: Split) -> States:
    """Move to the host what is to stay there; gradients go where their optimizer is, but for the buckets."""
    if split.offload_optimizer:
        host = whole.host + whole.optimizer + whole.gradients + whole.update
        whole = replace(whole, optimizer=0, gradients=0, update=0, host=host)
    if split.offload_parameters:
        whole = replace(whole, parameters=0, host=whole.host + whole.parameters)
    return whole


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
