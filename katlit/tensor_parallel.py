"""Tensor parallelism: the matrices of a decoder layer split over devices that see the same data."""

from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from katlit.errors import UserError

_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_ROWS = ("self_attn.o_proj", "mlp.down_proj")
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")  # of Qwen3; [B, L, heads, size] enters them
_KEY = "trainer.strategy.tensor_parallel_size"


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
        mesh: Of one dimension.
    """
    plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in _COLUMNS}
    plan |= {name: RowwiseParallel() for name in _ROWS}
    # Each device normalises its own heads with the same weight, whose gradient is the sum over all heads.
    norms = {name for name, _ in layer.named_modules()}.intersection(_HEAD_NORMS)
    plan |= {name: SequenceParallel(sequence_dim=2, use_local_output=True) for name in norms}
    parallelize_module(layer, mesh, plan, src_data_rank=None)
