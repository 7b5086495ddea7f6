"""How evenly a router spreads tokens over experts, as a loss and as statistics.

Shapes: T tokens, E experts, N layers.
"""

import torch
from torch import Tensor


def load_balance(
    logits: Tensor, top_k: int, real: Tensor, shares: Tensor | None = None
) -> tuple[Tensor, Tensor]:  # -> [T], [E]
    """The load-balancing loss of one layer (Switch Transformers, arXiv 2101.03961, equations 4 to 6).

    The loss is `E · Σ_e f_e · P_e`: f_e is the share of tokens that choose expert e, without gradient, P_e
    the mean of its probability. It is `top_k` where the load is even, and E where all goes to the same
    experts with certainty. Split by tokens, token t holds `E · Σ_e f_e · p_e(t)`.

    transformers' `load_balancing_loss_func`, but for one layer: over several, that function adds up the
    experts of one number, so that a busy one in one layer makes up for an idle one in another. The mean over
    layers is our choice, and of the same size.

    Args:
        logits: [T, E], of the router.
        top_k: Experts of a token.
        real: [T] bool, False on padding, which neither counts nor holds a loss.
        shares: [E], f of more tokens than these, whose loss is then in parts. None: of these.

    Returns:
        The loss that each token holds, whose mean over real tokens is the loss; and how many of them chose
        each expert. Both float32.
    """
    probabilities = logits.float().softmax(dim=-1)
    chosen = probabilities.detach().topk(top_k, dim=-1).indices.flatten()  # [T * top_k]
    counted = real.float().repeat_interleave(top_k)
    loads = torch.zeros_like(probabilities[0], requires_grad=False).scatter_add(0, chosen, counted)
    if shares is None:
        shares = loads / real.sum().clamp(min=1)
    return logits.shape[-1] * (probabilities @ shares) * real, loads


def load_statistics(loads: Tensor) -> dict[str, Tensor]:  # [N, E] -> [] each
    """How far loads are from even.

    Args:
        loads: How many tokens chose each expert of each layer.

    Returns:
        `max_load`: the load of the busiest expert of any layer, as a multiple of its layer's mean; 1 is even.
        `idle_experts`: the share of experts that no token chose.
    """
    mean = loads.mean(dim=-1, keepdim=True).clamp(min=torch.finfo(loads.dtype).tiny)
    return {"max_load": (loads / mean).max(), "idle_experts": (loads == 0).float().mean()}
