"""The clipped policy loss and what goes with it; one value a token, reduced by the caller.

Shapes: T tokens.
"""

import torch
from torch import Tensor


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:  # [T]
    """`-min(ratio·A, clip(ratio, 1-clip_low, 1+clip_high)·A)` (PPO; two bounds as in DAPO, arXiv 2503.14476).

    Args:
        log_probs: [T], of the policy that is trained.
        old_log_probs: [T], of the policy that the ratio starts from; gets no gradient.
        advantages: [T].
        clip_low: Distance of the lower bound from 1.
        clip_high: Distance of the upper bound from 1.
    """
    ratio = (log_probs - old_log_probs.detach()).exp()
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, bounded * advantages)


def clipped(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:  # [T] bool
    """Whether the bound, and so no gradient, is in force in `policy_loss` of the same arguments."""
    ratio = (log_probs.detach() - old_log_probs).exp()
    above = (ratio > 1 + clip_high) & (advantages > 0)
    return above | ((ratio < 1 - clip_low) & (advantages < 0))


def importance_weights(old_log_probs: Tensor, sampled_log_probs: Tensor, cap: float) -> Tensor:  # [T]
    """`min(π_train / π_rollout, cap)`: makes up for a sampler that computes differently or has older weights.

    Without the cap, the weighted gradient is in expectation that of samples of π_train.

    Args:
        old_log_probs: [T], of the policy that the ratio starts from, computed by the trainer.
        sampled_log_probs: [T], of the same tokens, computed by the engine as it sampled.
        cap: C, the largest weight.
    """
    return (old_log_probs.detach() - sampled_log_probs).exp().clamp(max=cap)


def effective_sample_share(mean: Tensor, mean_square: Tensor) -> Tensor:  # [], [] -> []
    """Kish's effective sample size over the number of samples: 1 where all weights are equal, 0 for none.

    Args:
        mean: Mean of the weights.
        mean_square: Mean of their squares.
    """
    return mean.square() / mean_square.clamp(min=torch.finfo(mean.dtype).tiny)


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:  # [T]
    """Schulman's k3 estimate of KL(policy‖reference) on sampled tokens: `exp(d) - d - 1`, never negative.

    Args:
        log_probs: [T], of the policy that is trained.
        reference_log_probs: [T]; gets no gradient. `d` is these minus those of the policy.
    """
    difference = reference_log_probs.detach() - log_probs
    return difference.expm1() - difference
