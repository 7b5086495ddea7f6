"""How values for single tokens become a loss."""

from torch import Tensor


def token_mean(values: Tensor, number: Tensor | None = None) -> Tensor:  # [T] -> []
    """Mean over tokens; of none it is 0, with a graph, so that an all-masked batch still runs backward.

    Args:
        values: One a token.
        number: What to divide by where these are only a part of the tokens that the mean is over, see
            `KatModule.step_numbers`. None: how many they are.
    """
    return values.sum() / (max(values.numel(), 1) if number is None else number)
