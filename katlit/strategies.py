"""What the strategies need to know about our model."""

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
