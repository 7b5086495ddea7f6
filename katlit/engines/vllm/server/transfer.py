"""How a checkpoint gets into a running vLLM server, by the server's own interface for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from katlit.engines.vllm.isolation import preserved_process
from katlit.engines.vllm.plugin import BACKEND, tensors
from katlit.engines.vllm.server.client import ServerClient
from katlit.engines.vllm.server.process import free_port
from katlit.engines.vllm.server.supervisor import Checkpoint
from katlit.engines.weights import checkpoint_files
from katlit.errors import UserError
from katlit.model.mtp import MTP_FOLDER

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer import ParamMeta, TrainerWeightTransferEngine


class FileTransfer:
    """The server reads the checkpoint's files; see `katlit.engines.vllm.plugin`."""

    backend = BACKEND

    def __init__(self, client: ServerClient) -> None:
        self._client = client

    def send(self, directory: Path) -> None:
        """Have the server load the files, and those of the module that drafts, if there is one."""
        self._update("/start_weight_update", directory)
        if (directory / MTP_FOLDER).is_dir():
            self._update("/start_draft_weight_update", directory / MTP_FOLDER)

    def _update(self, start: str, directory: Path) -> None:
        self._client.post(start)
        self._client.post("/update_weights", {"update_info": {"files": checkpoint_files(directory)}})
        self._client.post("/finish_weight_update")

    def reconnect(self) -> None:
        """Nothing to do: files need no connection."""


class NcclTransfer:
    """This process's GPU broadcasts the checkpoint to the server's, by vLLM's own pair of engines.

    Args:
        client: Client of the server.
        address: Address of this machine, as the server sees it.
    """

    backend = "nccl"

    def __init__(self, client: ServerClient, address: str) -> None:
        self._client = client
        self._address = address
        self._engine: TrainerWeightTransferEngine | None = None

    def send(self, directory: Path) -> None:
        """Broadcast the weights; the first time, connect before."""
        source = CheckpointSource(directory)
        with preserved_process():
            if self._engine is None:
                self._engine = self._connect(source)
            self._engine.source = source
            self._engine.send_weights()

    def reconnect(self) -> None:
        """Forget the connection to a server that is gone."""
        self._engine = None

    def _connect(self, source: "CheckpointSource") -> "TrainerWeightTransferEngine":
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        info = NCCLTrainerInitInfo(
            rank=0,
            master_address=self._address,
            master_port=free_port(self._address),
            world_size=1 + self._client.get("/get_world_size", "world_size"),
        )
        return WeightTransferTrainerFactory.trainer_init(
            info, client=_ControlClient(self._client), source=source
        )


class CheckpointSource:
    """A checkpoint's weights as vLLM's `WeightSource` wants them: announced, then sent from the GPU."""

    def __init__(self, directory: Path) -> None:
        self._files = checkpoint_files(directory)

    def metadata(self) -> "list[ParamMeta]":
        """Name, type and shape of each weight, in the order of the iteration."""
        from vllm.distributed.weight_transfer import ParamMeta

        return [ParamMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in tensors(self._files)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """The weights, on the current GPU."""
        return ((name, weight.cuda()) for name, weight in tensors(self._files))


class _ControlClient:
    """The four requests that vLLM's trainer engines make (`VLLMWeightSyncClient`), with our time limits."""

    def __init__(self, client: ServerClient) -> None:
        self._client = client

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._client.post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._client.post("/start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._client.post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self) -> None:
        self._client.post("/finish_weight_update")


def replace_weights(
    client: ServerClient, transfer: FileTransfer | NcclTransfer, checkpoint: Checkpoint
) -> None:
    """Pause the server, send the weights, forget cached prefixes, name the weights, resume.

    Where that fails, the server's weights have a name that no completion is taken with.
    """
    client.post("/pause?mode=wait")
    client.post("/update_weight_version", {"new_version": f"before {checkpoint.version}"})
    transfer.send(checkpoint.directory)
    client.post("/reset_prefix_cache")
    client.post("/update_weight_version", {"new_version": checkpoint.version})
    client.post("/resume")


def check_joined(client: ServerClient, max_context: int, backend: str) -> dict[str, Any]:
    """Refuse a running server with other settings than we would start one with.

    Returns:
        All its settings, as vLLM's `VllmConfig` has them.

    Raises:
        UserError: at the first setting that differs.
        ServerDownError: where it does not answer.
    """
    config: dict[str, Any] = client.get(
        "/server_info?config_format=json", "vllm_config", client.control_timeout
    )
    model = config["model_config"]
    checks = [
        ("logprobs_mode", model["logprobs_mode"], "processed_logprobs"),
        ("weight_transfer_config.backend", (config["weight_transfer_config"] or {}).get("backend"), backend),
        ("speculative_config", config["speculative_config"], None),
        ("hf_overrides", model["hf_overrides"], {"tie_word_embeddings": False}),
    ]
    for name, found, expected in checks:
        if found != expected:
            raise UserError(
                f"vLLM server: {client.url} runs with {name} {found!r}; start it with {expected!r}"
            )
    if model["max_model_len"] < max_context:
        raise UserError(
            f"vLLM server: {client.url} runs with max_model_len {model['max_model_len']}, below max_context "
            f"{max_context}"
        )
    return config
