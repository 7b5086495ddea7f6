"""The weights split over devices: by FSDP2, and by tensor parallelism within a decoder layer."""

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from katlit.errors import UserError
from katlit.model.backbone import Backbone

_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_ROWS = ("self_attn.o_proj", "mlp.down_proj")
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")  # of Qwen3; [B, L, heads, size] enters them
_KEY = "trainer.strategy.tensor_parallel_size"


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


def require_divisible(layer: nn.Module, config: Any, size: int, *, adapted: bool) -> None:
    """Refuse what cannot be split.

    Args:
        layer: A decoder layer.
        config: Hugging Face's, of its model.
        size: Devices that share it.
        adapted: Whether it has adapters.

    Raises:
        UserError: for adapters, a layer without the usual seven matrices (a mixture of experts), or numbers
            of heads that `size` does not divide.
    """
    if adapted:
        raise UserError(f"{_KEY}: {size}, but adapters (backbone.lora) are not split; set it to 1")
    modules = dict(layer.named_modules())
    if not all(isinstance(modules.get(name), nn.Linear) for name in (*_COLUMNS, *_ROWS)):
        raise UserError(
            f"{_KEY}: {size}, but the layers of {config.model_type} are not the dense ones of a Llama-like "
            "decoder; set it to 1"
        )
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, name) % size:
            raise UserError(
                f"{_KEY}: {size} does not divide {name} {getattr(config, name)}; choose a divisor"
            )


def split_layer(layer: nn.Module, mesh: DeviceMesh) -> None:
    """Split queries, keys, values, gate and up by columns, and what follows them by rows (Megatron-LM).

    What enters and leaves the layer is whole on each device, and so are its other norms and their gradients.

    Args:
        layer: Is changed in place; the same on each device.
        mesh: Mesh of one dimension.
    """
    plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in _COLUMNS}
    plan |= {name: RowwiseParallel() for name in _ROWS}
    # Each device normalises its own heads with the same weight, whose gradient is the sum over all heads.
    norms = {name for name, _ in layer.named_modules()}.intersection(_HEAD_NORMS)
    plan |= {name: SequenceParallel(sequence_dim=2, use_local_output=True) for name in norms}
    parallelize_module(layer, mesh, plan, src_data_rank=None)
