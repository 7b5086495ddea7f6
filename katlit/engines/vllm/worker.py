"""What we ask of vLLM's worker beside its own methods: to read weights back, and to draft rightly."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from katlit.engines.fingerprint import Fingerprint, columns, fingerprint, sampled
from katlit.engines.vllm.mends import mend_cpu_sampling


class WorkerExtension:
    """Mixed into the workers of a server (vLLM's `--worker-extension-cls`), to be called from outside."""

    def mend_sampling(self) -> None:
        """See `mend_cpu_sampling`."""
        mend_cpu_sampling(self)

    def weight_fingerprints(self, shapes: dict[str, list[int]]) -> dict[str, Fingerprint]:
        """See `weight_fingerprints`."""
        return weight_fingerprints(self.get_model(), shapes)  # type: ignore[attr-defined]


def weight_fingerprints(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, Fingerprint]:
    """Fingerprints of the weights of vLLM's model, under their names in a checkpoint.

    Weights of several names that vLLM keeps as one are told apart by their rows. Left out is what cannot be
    read: experts, quantized weights, and those of which a worker has a part only.

    Args:
        model: vLLM's.
        shapes: Shape of each weight in a checkpoint.
    """
    modules = dict(model.named_modules())
    joined: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    whole_of = {part: whole for whole, parts in joined.items() for part in parts}
    elements: dict[str, Tensor | None] = {}
    found = {}
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        parent, _, part = layer.rpartition(".")
        parts = joined.get(whole_of.get(part, ""), [part])
        path = f"{parent}.{whole_of.get(part, part)}".removeprefix(".")
        siblings = [shapes.get(f"{parent}.{other}.{kind}") for other in parts] if len(parts) > 1 else [shape]
        if path not in modules or None in siblings:
            continue
        if f"{path}.{kind}" not in elements:
            elements[f"{path}.{kind}"] = _elements(modules[path], kind, shape[-1])
        rows = elements[f"{path}.{kind}"]
        start = sum(other[0] for other in siblings[: parts.index(part)] if other is not None)
        if rows is not None and len(rows) >= start + shape[0]:
            found[name] = fingerprint(rows[start : start + shape[0]])
    return found


@torch.inference_mode()
def _elements(module: Any, kind: str, width: int) -> Tensor | None:
    """The elements of a module's weight that are compared; None where they cannot be read.

    Args:
        module: vLLM's.
        kind: `weight` or `bias`.
        width: Columns of the weight, if it is a matrix.
    """
    weight = getattr(module, kind, None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or getattr(module, "tp_size", 1) > 1:
        return None
    if weight.numel():
        return sampled(weight) if weight.ndim == 1 or weight.shape[1] == width else None
    # The kernel has taken the weight away into an order of its own, and gives products with it.
    method: Any = getattr(module, "quant_method", None)
    if type(method).__name__ != "UnquantizedLinearMethod":
        return None
    chosen = columns(width)
    units = torch.zeros(len(chosen), width, dtype=weight.dtype, device=weight.device)
    units[range(len(chosen)), chosen] = 1
    product: Tensor = method.apply(module, units, None)
    return product.T
