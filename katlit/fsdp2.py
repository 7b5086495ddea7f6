"""FSDP2, and tensor parallelism with it."""

from lightning.pytorch.strategies import ModelParallelStrategy
from typing_extensions import override

from katlit.errors import UserError


class Fsdp2Strategy(ModelParallelStrategy):
    """Splits weights, gradients and optimizer state over all devices; runs on CPU processes too (gloo).

    Lightning's strategy, whose own default for the number of data-parallel ranks is that of the nodes.

    Args:
        tensor_parallel_size: Devices that share the work of each layer, neighbours on one node; the other
            dimension is data parallel.
        save_distributed_checkpoint: One file a rank, in a folder; else one file, gathered on the first rank.
        process_group_backend: Of torch.distributed; gloo on the CPU, nccl on GPUs by default.
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
        devices = self.num_nodes * self.num_processes
        if devices % self.tensor_parallel_size:
            raise UserError(
                f"trainer.strategy: tensor_parallel_size {self.tensor_parallel_size} does not divide the "
                f"{devices} devices; choose a divisor"
            )
        self._data_parallel_size = devices // self.tensor_parallel_size
        super().setup_environment()
