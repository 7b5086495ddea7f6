"""Floating-point operations of a training step, and what a device could do in the time."""

from torch import Tensor

from katlit.model.shape import Shape

# Dense half-precision operations a second, from data sheets; the longest name that fits counts.
PEAK_FLOPS = {
    "A100": 312e12,
    "H100": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
}


def peak_flops_of(device_name: str) -> float | None:
    """Peak of a GPU by what `torch.cuda.get_device_name` calls it; None where it is not in the table."""
    known = [name for name in PEAK_FLOPS if name in device_name]
    return PEAK_FLOPS[max(known, key=len)] if known else None


def training_flops(shape: Shape, tokens: Tensor, attended: Tensor, *, with_mtp: bool) -> Tensor:
    """Operations of forward and backward pass: `6·N` a token and `12·layers·width·length` for attention.

    The formula of PaLM (arXiv 2204.02311, appendix B): a multiplication and an addition for each parameter,
    once forward and twice backward; attention is not halved for being causal, recomputation does not count.
    Our choice for what PaLM's text leaves open: N is `Shape.active` (no idle experts, no embedding that is
    only looked up), width that of all queries, length that of a token's own document. An MTP module adds its
    own parameters, a layer of attention, and the head once more. Frozen companions do not count.

    Args:
        shape: Shape of the model.
        tokens: Their number, [].
        attended: Sum over tokens of the length of their document, [].
        with_mtp: Whether the MTP modules run.
    """
    active, layers = shape.active, shape.layers
    if with_mtp:
        active, layers = active + shape.mtp_active, layers + shape.mtp_depth
    return 6.0 * active * tokens.double() + 12.0 * layers * shape.query * attended.double()
