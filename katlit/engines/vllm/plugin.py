"""A weight transfer of vLLM's server over safetensors files, for trainers and servers that share a disk.

vLLM finds `register` by the entry point group `vllm.general_plugins` of the installed package.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor

from katlit.engines.vllm.mends import forget_expert_kernels

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer import WeightTransferEngine

BACKEND = "katlit_files"


def register() -> None:
    """Make the backend known to vLLM; each of its processes calls this once."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    WeightTransferEngineFactory.register_engine(BACKEND, _engine_class())


def tensors(files: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of safetensors files, one at a time."""
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a mapping)
                yield name, opened.get_tensor(name)


def _engine_class() -> "type[WeightTransferEngine]":
    """Define the engine where vLLM, whose class it extends, is sure to be there."""
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    @dataclass
    class InitInfo(WeightTransferInitInfo):
        """Files need no rendezvous."""

    @dataclass
    class UpdateInfo(WeightTransferUpdateInfo):
        """Files that together hold every weight of the model, or of the module that drafts."""

        files: list[str]

    class FileTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
        """Loads the weights of files into a worker's model, or into its drafter where vLLM says so."""

        init_info_cls = InitInfo
        update_info_cls = UpdateInfo

        def init_transfer_engine(self, init_info: InitInfo) -> None:
            """Nothing to set up."""

        def start_weight_update(self) -> None:
            """Prepare the model for weights under the names of a checkpoint."""
            forget_expert_kernels(self.model)
            initialize_layerwise_reload(self.model)

        def update_weights(self, update_info: dict[str, object]) -> None:
            """Load the files; vLLM's own method asks for an accelerator."""
            self.receive_weights(self.parse_update_info(update_info))
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()

        def receive_weights(self, update_info: UpdateInfo) -> None:
            """Load the files."""
            self.model.load_weights(tensors(update_info.files))

        def finish_weight_update(self) -> None:
            """Bring the weights into the form that the kernels want."""
            finalize_layerwise_reload(self.model, self.model_config)

        def shutdown(self) -> None:
            """Nothing to release."""

    return FileTransferEngine
