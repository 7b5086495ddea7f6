"""What the strategies need to know about our model, and we about them."""

from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from katlit.backbone import Backbone


def shard(backbone: Backbone, mesh: DeviceMesh) -> None:
    """Split the weights over the data-parallel ranks by FSDP2, one unit a decoder layer (MTP's too).

    What is left (embeddings, head, norms) forms the backbone's own unit, which stays gathered from its
    forward to its backward pass, so that the losses can use the head.
    """
    data_parallel = mesh["data_parallel"]
    layers, _ = backbone.decoder()
    for layer in [*layers, *(module.block for module in backbone.mtp)]:
        fully_shard(layer, mesh=data_parallel)
    fully_shard(backbone, mesh=data_parallel)


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
