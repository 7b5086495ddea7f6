"""DeepSpeed's ZeRO stages, also on the CPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from katlit.errors import UserError
from katlit.parallel.abandoned_builds import warn_of_abandoned_builds


class ZeroStrategy(DeepSpeedStrategy):
    """Splits optimizer state (stage 1), gradients too (2), weights too (3) over the ranks, by DeepSpeed.

    Lightning's strategy, with these differences: it runs on CPU processes as well (gloo), so a configuration
    can be tried without a GPU; weights are made whole by our own loading code and split afterwards, because
    under DeepSpeed's own context Hugging Face would initialise empty shards; accumulated gradients are
    divided once by their number, not twice; and the settings are the few that a recipe turns.

    Args:
        stage: What is split.
        offload_optimizer: Keep optimizer state, and the update, in host memory.
        offload_parameters: Keep the weights of stage 3 in host memory.
        bucket_elements: Gradients and weights move in buckets of so many numbers.
        process_group_backend: Backend of torch.distributed; gloo on the CPU, nccl on GPUs by default.
    """

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        bucket_elements: int = 2**28,
        process_group_backend: str | None = None,
    ) -> None:
        if find_spec("deepspeed") is None:
            raise UserError("trainer.strategy: deepspeed is not installed; install katlit[deepspeed]")
        if offload_parameters and stage != 3:
            raise UserError(f"trainer.strategy: offload_parameters needs stage 3, but stage is {stage}")
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            allgather_bucket_size=bucket_elements,
            reduce_bucket_size=bucket_elements,
            # Only for DeepSpeed's own throughput log; our loaders have no single number.
            logging_batch_size_per_gpu=1,
            process_group_backend=process_group_backend,
        )
        # The optimizer is the stage's AdamW on every strategy, offloaded or not.
        self.config["zero_force_ds_cpu_optimizer"] = False

    @property
    @override
    def root_device(self) -> torch.device:
        if self._on_cpu():
            return torch.device("cpu", self.local_rank)  # DeepSpeed reads the index
        return super().root_device

    def _on_cpu(self) -> bool:
        return isinstance(self.accelerator, CPUAccelerator)

    @override
    def setup_environment(self) -> None:
        warn_of_abandoned_builds()
        if not self._on_cpu():
            super().setup_environment()
            return
        os.environ["DS_ACCELERATOR"] = "cpu"
        DDPStrategy.setup_environment(self)  # past the parent's refusal of CPUs

    @override
    def setup_distributed(self) -> None:
        if not self._on_cpu():
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @override
    def _setup_model_and_optimizer(self, model: Any, optimizer: Optimizer | None, *rest: Any) -> Any:
        if optimizer is not None and optimizer.param_groups[0].get("kahan_sum"):
            raise UserError(
                "optimization.kahan_sum: true, but DeepSpeed keeps float32 weights for the optimizer itself; "
                "set kahan_sum: false, or take strategy/fsdp2.yaml"
            )
        return super()._setup_model_and_optimizer(model, optimizer, *rest)

    @override
    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        # Lightning has divided the loss by the accumulated micro-batches; DeepSpeed would do so again.
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def backward_within_step(self, loss: Tensor) -> None:
        """Run backward from a part of the loss, as one more micro-batch that ends no optimizer step.

        DeepSpeed prepares its optimizer in hooks of what its forward pass returns, which this loss is not,
        and counts micro-batches by forward passes.

        Args:
            loss: [], divided by the micro-batches of the optimizer step.
        """
        engine = self.model
        engine.set_gradient_accumulation_boundary(False)
        engine._backward_prologue()  # noqa: SLF001 (no other name)
        engine.backward(loss, scale_wrt_gas=False)
        engine.set_gradient_accumulation_boundary(None)  # by their count again
        engine.optimizer.clear_backward_seen_flag()

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        trains = self.lightning_module is None or self.lightning_module.trainer.training
        if self.config["zero_optimization"]["stage"] == 3 and not trains:
            raise UserError(
                f"ckpt_path: {str(checkpoint_path)!r} is of ZeRO-3, which DeepSpeed reads only to train on; "
                "make one file of it by katlit consolidate, and give that to another strategy"
            )
        content: dict[str, Any] = super().load_checkpoint(checkpoint_path, weights_only)
        return content

    @contextmanager
    @override
    def model_sharded_context(self) -> Iterator[None]:
        self._init_config_if_needed()
        yield
