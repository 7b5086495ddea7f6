"""Backward passes within a training step, before the one that Lightning runs at its end."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from katlit.parallel.zero import ZeroStrategy


def backward_within_step(module: LightningModule, loss: Tensor) -> None:
    """Add the gradient of a part of the loss to those of the weights, so that its graph can go.

    What Lightning does with the loss that a step returns, but for the hooks, which run once a step. Where
    whole gradients are kept (DDP, ZeRO-1), they are reduced over the ranks once, with the last part's, by
    Lightning: DDP expects none before its forward pass, which is the training step, is over. Where a rank
    keeps its share of them (FSDP2, ZeRO-2 and 3), whole ones have no room; each part's are reduced at once.

    A collective where weights or gradients are shared out: every rank must call it equally often.

    Args:
        module: Attached to a trainer, and in its training step.
        loss: [], divided by the micro-batches of the optimizer step.
    """
    strategy = module.trainer.strategy
    plugin = strategy.precision_plugin
    scaler = getattr(plugin, "scaler", None)  # of 16-mixed
    with torch.autocast(loss.device.type, enabled=False):  # as after the step
        if isinstance(strategy, ZeroStrategy):
            strategy.backward_within_step(loss)
        else:
            plugin.backward(loss if scaler is None else scaler.scale(loss), module, None)
