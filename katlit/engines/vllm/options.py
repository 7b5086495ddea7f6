"""What vLLM is told, in the trainer's process or as a server, and how long a server may take for what."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from typing_extensions import override

from katlit.engines.vllm.speculation import speculation
from katlit.engines.vllm.worker import WorkerExtension
from katlit.errors import UserError, require


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class VLLMOptions:
    """Options of vLLM, the same in the trainer's process (`VLLMEngine`) as in a server (`VLLMServer`).

    Args:
        max_num_seqs: Sequences in flight, of all processes that this vLLM samples for. None: 1024 on a GPU,
            256 on the CPU.
        max_num_batched_tokens: Tokens of one forward pass. None: 8192, or more where that is not enough. On
            the CPU at least `max_context`: prompts are split on a GPU only, because vLLM's seeded sampling on
            the CPU fails on a split one.
        dtype: Type of the weights; "auto" is float32 on the CPU, the checkpoint's on a GPU.
        kv_cache_gib: Memory for keys and values on each device. None: what `gpu_memory_utilization` leaves of
            a GPU beside the weights; 1 GiB on the CPU.
        gpu_memory_utilization: Share of a device's memory that must be free when vLLM starts; on a GPU also
            all that it takes, unless `kv_cache_gib` is given. None: in the trainer's process 0.6 on a GPU,
            where trainer and vLLM hold activations and cache by turns, 0.9 where nothing trains on it (to
            label, to evaluate), and 0.3 on the CPU; 0.9 in a server.
        enforce_eager: Do not compile, the sampler neither. None: compile, into CUDA graphs, on a GPU only,
            where it is worth its start time.
        prefix_caching: Reuse the keys and values of common prefixes, in blocks of 32 tokens on the CPU;
            forgotten at each sync.
        speculative_tokens: How many tokens the model's first MTP module drafts, one after another, for the
            model to check at once; 0: none. For models of `katlit.model.mtp.MTP_ARCHITECTURES`. What is
            sampled, and its log-probabilities, are the model's own; a seed gives other tokens than without,
            and the same in any batch unless vLLM runs out of cache, or a prompt is a single token.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_cache_gib: float | None = None
    gpu_memory_utilization: float | None = None
    enforce_eager: bool | None = None
    prefix_caching: bool = True
    speculative_tokens: int = 0

    def __post_init__(self) -> None:
        """Refuse what would fail at once."""
        cache, share, sequences = self.kv_cache_gib, self.gpu_memory_utilization, self.max_num_seqs
        require(sequences is None or sequences >= 1, "max_num_seqs", sequences, "at least 1, or null")
        require(cache is None or cache > 0, "kv_cache_gib", cache, "a number above 0, or null")
        bounds = "a share above 0 and at most 1, or null"
        require(share is None or 0 < share <= 1, "gpu_memory_utilization", share, bounds)
        drafts = self.speculative_tokens
        require(drafts >= 0, "speculative_tokens", drafts, "0 (none) or more")

    def eager(self) -> bool:
        """Whether nothing is compiled."""
        return not _on_gpu() if self.enforce_eager is None else self.enforce_eager

    def sequences(self) -> int:
        """How many sequences are in flight at most."""
        return self.max_num_seqs or (1024 if _on_gpu() else 256)

    def utilization(self, *, on_gpu: bool, shares_device: bool = True) -> float:
        """Share of a device's memory that vLLM may take."""
        own = 0.3 if not on_gpu else 0.6 if shares_device else 0.9
        return self.gpu_memory_utilization or own

    def cache_gib(self, *, on_gpu: bool) -> float | None:
        """Memory for keys and values; None: what `utilization` leaves."""
        return 1.0 if self.kv_cache_gib is None and not on_gpu else self.kv_cache_gib

    def batched_tokens(self, max_context: int) -> int:
        """Tokens of one forward pass.

        Raises:
            UserError: where a prompt of `max_context` would be split on the CPU, or not every sequence has
                room for a token.
        """
        sequences = self.sequences()
        whole = sequences if _on_gpu() else max(max_context, sequences)
        least = (1 + self.speculative_tokens) * whole
        given = max(8192, least) if self.max_num_batched_tokens is None else self.max_num_batched_tokens
        mend = (
            f"at least {least}: the larger of max_context {max_context} and max_num_seqs "
            f"{sequences}, for each drafted token once more"
        )
        require(given >= least, "options.max_num_batched_tokens", given, mend)
        return given

    def settings(
        self, directory: Path, max_context: int, seed: int, *, shares_device: bool = True
    ) -> dict[str, Any]:
        """What vLLM is told of a model, by the names of its Python interface.

        Args:
            directory: A Hugging Face directory; with drafts it holds the module that drafts too.
            max_context: Longest prompt plus completion, in tokens.
            seed: Seed of what has no seed of its own.
            shares_device: Whether a trainer has memory of the device as well.
        """
        on_gpu = _on_gpu()
        given = self.cache_gib(on_gpu=on_gpu)
        cache = {} if given is None else {"kv_cache_memory_bytes": int(given * 2**30)}
        if not on_gpu:
            # vLLM's own on the CPU is 128, and a prompt that is shorter shares nothing.
            cache["block_size"] = 32
        settings: dict[str, Any] = {
            # The head is never tied, so that a sync sets it and the embedding each for itself.
            "hf_overrides": {"tie_word_embeddings": False},
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # none of the checkpoint's defaults
            "logprobs_mode": "processed_logprobs",  # of the distribution sampled from, as `engine` defines
            "dtype": "float32" if self.dtype == "auto" and not on_gpu else self.dtype,
            "max_model_len": max_context,
            "max_num_seqs": self.sequences(),
            "max_num_batched_tokens": self.batched_tokens(max_context),
            "enable_chunked_prefill": on_gpu,
            "enable_prefix_caching": self.prefix_caching,
            "enforce_eager": self.eager(),
            "gpu_memory_utilization": self.utilization(on_gpu=on_gpu, shares_device=shares_device),
            "seed": seed,
            **cache,
        }
        if not self.speculative_tokens:
            return settings
        return settings | speculation(directory, self.speculative_tokens, max_context)


WORKER_EXTENSION = f"{WorkerExtension.__module__}.{WorkerExtension.__name__}"


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class ServerOptions(VLLMOptions):
    """Options of a server that we start: those of `VLLMOptions`, and how it is reached.

    Args:
        tensor_parallel_size: Devices that share the model.
        host: Address that the server listens on; all ranks must reach it. Whoever else does can change the
            weights.
        port: To listen on; None takes a free one.
        environment: More environment variables, CUDA_VISIBLE_DEVICES for one.
        log_file: Where the server's output goes; None: a file that is deleted at the end.
    """

    gpu_memory_utilization: float | None = 0.9
    tensor_parallel_size: int = 1
    host: str = "127.0.0.1"
    port: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    log_file: Path | None = None

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        devices = self.tensor_parallel_size
        require(devices >= 1, "tensor_parallel_size", devices, "at least 1")

    def variables(self) -> dict[str, str]:
        """Environment variables that the server has beside ours."""
        eager = {"TORCHDYNAMO_DISABLE": "1"} if self.eager() else {}
        return eager | self.environment

    def command_line(
        self, directory: Path, max_context: int, backend: str, port: int, seed: int
    ) -> list[str]:
        """What vLLM is told, but for the model, which is in the directory."""
        if self.log_file is not None and not self.log_file.parent.is_dir():
            raise UserError(f"log_file: {self.log_file}; its folder is missing, make it")
        if _on_gpu():
            self._require_devices()
        settings = self.settings(directory, max_context, seed) | {
            "host": self.host,
            "port": port,
            "served_model_name": "policy",
            "weight_transfer_config": {"backend": backend},
            "tensor_parallel_size": self.tensor_parallel_size,
            "tokens_only": True,
            "disable_uvicorn_access_log": True,
            "worker_extension_cls": WORKER_EXTENSION,
        }
        return option_words(settings)

    def _require_devices(self) -> None:
        """Refuse a model for more devices than the server will see; vLLM would fail after minutes."""
        visible = (os.environ | self.environment).get("CUDA_VISIBLE_DEVICES")
        number = torch.cuda.device_count() if visible is None else len(list(filter(None, visible.split(","))))
        size = self.tensor_parallel_size
        mend = (
            f"at most {number}, the devices of this process; fewer processes (trainer.devices) have more each"
        )
        require(size <= number, "options.tensor_parallel_size", size, mend)


def option_words(settings: Mapping[str, Any]) -> list[str]:
    """Settings as vLLM's command line takes them.

    Args:
        settings: Values by the names of vLLM's Python interface.
    """
    return [word for name, value in settings.items() for word in _words(name.replace("_", "-"), value)]


def _on_gpu() -> bool:
    return torch.cuda.is_available()


def _words(name: str, value: Any) -> list[str]:
    """An option of vLLM's command line."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class ServerTimeouts:
    """Seconds after which a server counts as broken.

    Args:
        start: Until it answers for the first time.
        hang: For the answer to whether it is alive, which vLLM gives between two forward passes.
        request: For one completion.
        control: For each step of a weight update.
        close: For the trainer's other processes to be done, before the server is ended.
    """

    start: float = 900.0
    hang: float = 120.0
    request: float = 3600.0
    control: float = 600.0
    close: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what would fail at once."""
        for name, value in vars(self).items():
            if value <= 0:
                raise UserError(f"timeouts.{name}: {value}; give seconds above 0")
