"""How values for single tokens become a loss."""

from torch import Tensor


def token_mean(values: Tensor) -> Tensor:  # [T] -> []
    """Mean over tokens; of none it is 0, with a graph, so that an all-masked batch still runs backward."""
    return values.sum() / max(values.numel(), 1)
