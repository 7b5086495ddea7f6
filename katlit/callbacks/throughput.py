"""How fast training goes, and where the time goes."""

import resource
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from katlit.callbacks.rollout.sampler import RolloutSampler
from katlit.callbacks.step_callback import StepCallback
from katlit.model.flops import peak_flops_of, training_flops
from katlit.model.outline import config_shape
from katlit.model.shape import Shape
from katlit.parallel.collectives import add_over_ranks, data_ranks

_GIB = 2**30


class Throughput(StepCallback):
    """Logs speed, memory and shares of the time for each optimizer step.

    `throughput/tokens_per_second` and `/samples_per_second` (of all ranks; a sample is a document or a
    rollout), `/tokens_total` (of all ranks since the run began, before a checkpoint too), `/step_seconds`,
    `/peak_memory_gib` (of the rank that has most; allocated on a GPU, resident on the CPU),
    `/forward_backward_seconds` and `/optimizer_seconds`, in stage 3 `/rollout_seconds`, `/reward_seconds` and
    `/sync_seconds`, each also as a share of the step, `/…_share`, and where the device's peak is known
    `/mfu`, the model FLOPs utilisation by `katlit.model.flops`.

    A step's time runs from the end of the step before it, so it contains loading, sampling and the update,
    but not validation; of sampling, what the trainer waits for. Tokens are those of `input_ids` that are not
    padding; the few probes of stale rollouts count. Counting stays on the device, so nothing waits; on a GPU
    the parts are those of the host, which waits where it next needs a result.

    Args:
        peak_flops: Operations a second that one device could do in the precision of the run; that of a known
            GPU in half precision if not given.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        self.peak_flops = peak_flops
        self._last = 0.0
        self._batch_started = 0.0
        self._seconds = 0.0
        self._forward_backward = 0.0
        self._update_started = 0.0
        self._total: Tensor | float = 0.0  # tokens of all ranks so far
        self._counts: Tensor | int = 0  # tokens, samples, and over tokens the length of their document
        self._shape: Shape | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.peak_flops is None and torch.cuda.is_available():
            self.peak_flops = peak_flops_of(torch.cuda.get_device_name())
        if self.peak_flops is not None:
            backbone = pl_module.backbone
            self._shape = config_shape(backbone.causal_lm.config, len(backbone.mtp))
        self._last = time.perf_counter()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = time.perf_counter()

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch_started = time.perf_counter()

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """No hook lies between the rollouts and the forward pass, so their time is taken off at the end."""
        self._forward_backward += time.perf_counter() - self._batch_started

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        self._update_started = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch as a part of its step."""
        now = time.perf_counter()
        self._seconds += now - self._last
        self._last = now
        self._counts = self._counts + _counts(batch, pl_module.backbone.protocol.pad_id)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        self._log(trainer, pl_module)
        self._seconds, self._forward_backward, self._counts = 0.0, 0.0, 0

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"tokens": float(self._total)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._total = state_dict["tokens"]

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = {"on_step": True, "on_epoch": False, "sync_dist": True, "batch_size": 1}
        counts = torch.as_tensor(self._counts) * (data_ranks(trainer) / trainer.world_size)  # of one device
        tokens, samples, attended = counts.unbind()
        sums = {"tokens_per_second": tokens / self._seconds, "samples_per_second": samples / self._seconds}
        self._total = self._total + add_over_ranks(tokens.clone())
        means = {"step_seconds": self._seconds, "tokens_total": self._total} | self._parts(trainer)
        if self._shape is not None and self.peak_flops is not None:
            flops = training_flops(self._shape, tokens, attended, with_mtp=pl_module.trains_mtp)
            means["mfu"] = flops / (self._seconds * self.peak_flops)
        for name, value in sums.items():
            pl_module.log(f"throughput/{name}", value, reduce_fx="sum", **rows)
        for name, value in means.items():
            pl_module.log(f"throughput/{name}", value, reduce_fx="mean", **rows)
        peak = peak_memory(pl_module.device) / _GIB
        pl_module.log("throughput/peak_memory_gib", peak, reduce_fx="max", **rows)

    def _parts(self, trainer: Trainer) -> dict[str, Any]:
        """What parts of the step take, in seconds and as shares of it."""
        rollouts = next((each.seconds for each in trainer.callbacks if isinstance(each, RolloutSampler)), {})
        forward_backward = self._forward_backward - sum(rollouts.values())
        seconds = {"forward_backward": forward_backward, "optimizer": self._last - self._update_started}
        if rollouts:
            seconds |= {"rollout": rollouts["sample"], "reward": rollouts["reward"], "sync": rollouts["sync"]}
        shares = {f"{name}_share": value / self._seconds for name, value in seconds.items()}
        return {f"{name}_seconds": value for name, value in seconds.items()} | shares


def _counts(batch: Any, pad_id: int) -> Tensor:
    """Tokens, documents, and the sum over tokens of the length of their document, [3]; padding left out.

    The odd numbers up to `2·n - 1` add up to `n²`, so no length has to be known.
    """
    real, positions = batch["input_ids"] != pad_id, batch["position_ids"]
    starts = real & (positions == 0)
    return torch.stack([real.sum(), starts.sum(), (real * (2 * positions + 1)).sum()])


def peak_memory(device: torch.device) -> int:
    """Bytes at their most so far: allocated on a GPU, resident in the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
