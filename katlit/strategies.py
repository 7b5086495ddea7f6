"""What the strategies need to know about our model, and we about them."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from katlit.backbone import Backbone
from katlit.tensor_parallel import require_divisible, split_layer

ItemT = TypeVar("ItemT")


def shard(backbone: Backbone, mesh: DeviceMesh, precision: str) -> None:
    """Split the weights over the data-parallel ranks by FSDP2, one unit a decoder layer (MTP's too).

    With tensor parallelism the matrices of those layers are split over the tensor-parallel ranks before.

    What is left (embeddings, head, norms) forms the backbone's own unit, which stays gathered from its
    forward to its backward pass, so that the losses can use the head.

    Args:
        backbone: Is changed in place.
        mesh: The strategy's.
        precision: The trainer's. Under `bf16-mixed` weights are stored, and gradients reduced over the ranks,
            in float32; what is gathered is bfloat16. Lightning's autocast goes on beside it: in the backbone
            it finds nothing to cast, so it keeps no copies; losses and frozen models have it as elsewhere.
    """
    data_parallel = mesh["data_parallel"]
    policy = MixedPrecisionPolicy()
    if precision == "bf16-mixed":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    layers = [*backbone.decoder()[0], *(module.block for module in backbone.mtp)]
    tensor_parallel = mesh["tensor_parallel"]
    if tensor_parallel.size() > 1:
        config, adapted = backbone.causal_lm.config, backbone.lora is not None
        require_divisible(layers[0], config, tensor_parallel.size(), adapted=adapted)
    for layer in layers:
        if tensor_parallel.size() > 1:
            split_layer(layer, tensor_parallel)
        fully_shard(layer, mesh=data_parallel, mp_policy=policy)
    fully_shard(backbone, mesh=data_parallel, mp_policy=policy)


def data_ranks(trainer: Trainer) -> int:
    """How many ranks see different data."""
    ranks = trainer.distributed_sampler_kwargs
    return 1 if ranks is None else int(ranks["num_replicas"])


class Peers:
    """The ranks that see the same data as this one: its tensor-parallel group, or it alone.

    What one of them could do for all they share out, and then put together; so all have the very same.

    Args:
        mesh: The strategy's, where it has one.
    """

    def __init__(self, mesh: DeviceMesh | None) -> None:
        split = mesh is not None and mesh["tensor_parallel"].size() > 1
        self._group = mesh["tensor_parallel"].get_group() if mesh is not None and split else None
        self.number = 1 if self._group is None else dist.get_world_size(self._group)
        self.rank = 0 if self._group is None else dist.get_rank(self._group)

    def share(self, items: Sequence[ItemT]) -> Sequence[ItemT]:
        """This rank's items: every `number`-th."""
        return items[self.rank :: self.number]

    def together(self, own: ItemT) -> list[ItemT]:
        """What each of them gives, in the order of their ranks; a collective of theirs."""
        if self._group is None:
            return [own]
        parts: list[Any] = [None] * self.number
        dist.all_gather_object(parts, own, group=self._group)
        return parts


def add_over_data_ranks(values: Tensor, mesh: DeviceMesh | None) -> tuple[Tensor, int]:
    """Sum over the ranks that see different data; a collective.

    Args:
        values: Of any shape, changed in place.
        mesh: The strategy's, where it has one; else all processes see different data.

    Returns:
        The sums, and how many such ranks there are.
    """
    if not dist.is_initialized():
        return values, 1
    group = None if mesh is None else mesh["data_parallel"].get_group()
    dist.all_reduce(values, group=group)
    return values, dist.get_world_size(group)


def gathered(value: Any) -> list[Any]:
    """What each process has, in order of the ranks; a collective."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
