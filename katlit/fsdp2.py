"""FSDP2 over all devices."""

from lightning.pytorch.strategies import ModelParallelStrategy
from typing_extensions import override


class Fsdp2Strategy(ModelParallelStrategy):
    """Splits weights, gradients and optimizer state over all devices; runs on CPU processes too (gloo).

    Lightning's strategy, whose own default for the number of data-parallel ranks is that of the nodes.

    Args:
        save_distributed_checkpoint: One file a rank, in a folder; else one file, gathered on the first rank.
        process_group_backend: Of torch.distributed; gloo on the CPU, nccl on GPUs by default.
    """

    def __init__(
        self, save_distributed_checkpoint: bool = True, process_group_backend: str | None = None
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
        )

    @override
    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
