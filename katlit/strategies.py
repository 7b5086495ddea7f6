"""What the strategies need to know about our model, and we about them."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from katlit.backbone import Backbone


def shard(backbone: Backbone, mesh: DeviceMesh, precision: str) -> None:
    """Split the weights over the data-parallel ranks by FSDP2, one unit a decoder layer (MTP's too).

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
    layers, _ = backbone.decoder()
    for unit in [*layers, *(module.block for module in backbone.mtp), backbone]:
        fully_shard(unit, mesh=data_parallel, mp_policy=policy)


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
