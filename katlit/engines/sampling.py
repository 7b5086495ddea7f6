"""From logits to a token, with the conventions of `katlit.engines.base`; V is the vocabulary."""

import torch
from torch import Tensor

from katlit.engines.base import SamplingParameters


def log_distribution(logits: Tensor, sampling: SamplingParameters) -> Tensor:
    """Log-probabilities [..., V] of the distribution that tokens are drawn from; -inf where filtered out.

    First `top_k`, then `top_p` over what is left, ties kept: the order of vLLM's sampler.

    Args:
        logits: [..., V] float32.
        sampling: At temperature 0 the plain log softmax is returned: greedy picks its largest entry.
    """
    if sampling.temperature == 0:
        return logits.log_softmax(dim=-1)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1:
        ascending, order = logits.sort(dim=-1)
        tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        tail[..., -1] = False  # the most likely token always stays
        logits = logits.masked_fill(tail.scatter(-1, order, tail), -torch.inf)
    return logits.log_softmax(dim=-1)


def pick(log_probs: Tensor, draws: Tensor, *, greedy: bool) -> Tensor:
    """Tokens [B] int64 by inversion of the cumulative distribution.

    Args:
        log_probs: [B, V].
        draws: [B] float64, uniform in [0, 1).
        greedy: Take the most likely token instead.
    """
    if greedy:
        return log_probs.argmax(dim=-1)
    cumulative = log_probs.double().exp().cumsum(dim=-1)
    # Strictly below the total, so the token found has a probability above 0.
    return torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
