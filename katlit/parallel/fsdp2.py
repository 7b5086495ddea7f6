"""FSDP2 over all devices, or with tensor parallelism inside."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from typing_extensions import override

from katlit.errors import UserError


class Fsdp2Strategy(ModelParallelStrategy):
    """Splits weights, gradients and optimizer state over all devices; runs on CPU processes too (gloo).

    Lightning's strategy, whose own default for the number of data-parallel ranks is that of the nodes.

    Args:
        tensor_parallel_size: Neighbouring devices that see the same data and share each layer's matrices; the
            other weights are whole on each of them, and split over the data-parallel ranks as all others are.
        save_distributed_checkpoint: One file a rank, in a folder; else one file, gathered on the first rank.
        process_group_backend: Backend of torch.distributed; gloo on the CPU, nccl on GPUs by default.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(
            tensor_parallel_size=tensor_parallel_size,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
        )
        self.tensor_parallel_size = tensor_parallel_size

    @override
    def setup_environment(self) -> None:
        devices, size = self.num_nodes * self.num_processes, self.tensor_parallel_size
        if size < 1 or devices % size:
            raise UserError(
                f"trainer.strategy.tensor_parallel_size: {size} does not divide {devices} devices"
            )
        self._data_parallel_size = devices // size
        super().setup_environment()

    @override
    def setup_precision_plugin(self) -> None:
        super().setup_precision_plugin()
        if self.tensor_parallel_size > 1:
            self.precision_plugin.clip_grad_by_norm = _clip_by_norm


def _clip_by_norm(optimizer: Optimizer, clip_val: float) -> None:
    """Clip the norm of all gradients together; torch's own refuses weights on different meshes."""
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    clip_by_norm(gradients, clip_val)


def clip_by_norm(gradients: Iterable[DTensor], maximum: float) -> Tensor:
    """Scale gradients so that the norm of them all is at most `maximum`, as `clip_grad_norm_` does.

    Args:
        gradients: On one or several meshes; changed in place.
        maximum: Largest norm that is left as it is.

    Returns:
        The norm as it was.
    """
    meshes: dict[DeviceMesh, list[DTensor]] = defaultdict(list)
    for gradient in gradients:
        meshes[gradient.device_mesh].append(gradient)
    norms = [torch.nn.utils.get_total_norm(group) for group in meshes.values()]
    total = torch.linalg.vector_norm(torch.stack([norm.full_tensor() for norm in norms]))  # type: ignore[attr-defined]
    factor = (maximum / (total + 1e-6)).clamp(max=1)
    for group in meshes.values():
        for gradient in group:
            gradient.to_local().mul_(factor)
    return total
