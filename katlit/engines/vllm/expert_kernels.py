"""A gap in how vLLM 0.32 reloads a mixture of experts on the CPU, and how it is closed."""

from typing import Any

from torch import nn


def forget_expert_kernels(model: nn.Module) -> None:
    """Have vLLM's next reload build the kernels of experts anew; to be called in the worker before each.

    On the CPU the kernel of experts reads weights packed in an order of its own, and vLLM packs them only
    when it builds the kernel. A reload that finds one copies weights into the packed ones' place as they are,
    and every later sample is wrong without an error (or, where the kernel pads them, the copy fails). A
    reload that finds none packs, and copies into the memory that is read. On a GPU nothing is packed in that
    place, and kernels are left alone.

    Args:
        model: vLLM's.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    for module in model.modules():
        method: Any = getattr(module, "quant_method", None)
        if hasattr(method, "moe_kernel"):
            method.moe_kernel = None
