"""Log-probabilities of given tokens without the logits of a whole batch in memory.

Shapes: T tokens, H width, V vocabulary.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_TOKENS = 1024  # logits of so many tokens exist at a time, in forward and in backward


def selected_log_probs(
    hidden: Tensor,  # [T, H]
    weight: Tensor,  # [V, H]
    targets: Tensor,  # [T] int64
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:  # [T], [T]
    """Log-probability of each target under `softmax(hidden · weightᵀ / temperature)`.

    The output layer is applied chunk by chunk and again in the backward pass, so memory holds `CHUNK_TOKENS`
    rows of logits and not T.

    Args:
        hidden: What predicts each target.
        weight: Of the output layer.
        targets: Token ids.
        temperature: Divides the logits.

    Returns:
        The log-probabilities, and the entropy of each distribution in nats, without gradient; float32, or
        float64 where `hidden` is.
    """
    if len(targets) == 0:
        empty = hidden.sum(dim=-1) + 0.0 * weight.sum()
        return empty, empty.detach()
    chunks = [
        checkpoint(_chunk, rows, weight, ids, temperature, use_reentrant=False)
        for rows, ids in zip(
            torch.split(hidden, CHUNK_TOKENS), torch.split(targets, CHUNK_TOKENS), strict=True
        )
    ]
    log_probs, entropy = zip(*chunks, strict=True)
    return torch.cat(log_probs), torch.cat(entropy)


def _chunk(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.T
    logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    log_probs = logits.log_softmax(dim=-1)
    with torch.no_grad():
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
    return log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy
