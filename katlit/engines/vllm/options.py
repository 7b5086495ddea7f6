"""How a vLLM server is started, and how long it may take for what."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from katlit.engines.vllm.mends import MendedSampling
from katlit.engines.vllm.speculation import speculation
from katlit.errors import UserError


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class ServerOptions:
    """Of a server that we start; see `VLLMEngine` for those of the same name.

    Args:
        max_num_seqs: Sequences in flight, of all the trainer's processes.
        max_num_batched_tokens: Tokens of one forward pass, at least `max_context`; None: that, or 8192 if it
            is more. Prompts are never split, because vLLM's seeded sampling on the CPU fails on a split one.
        dtype: Type of the weights; "auto" is float32 on the CPU, the checkpoint's on a GPU.
        kv_cache_gib: Memory for keys and values on each device. None: what `gpu_memory_utilization` leaves.
        gpu_memory_utilization: Share of a device's memory for the server, where `kv_cache_gib` is None.
        tensor_parallel_size: Devices that share the model.
        enforce_eager: Do not compile, the sampler neither.
        prefix_caching: Reuse the keys and values of common prefixes; forgotten at each sync.
        speculative_tokens: How many tokens the model's first MTP module drafts; 0: none. With "files" only.
        host: Address that the server listens on; all ranks must reach it. Whoever else does can change the
            weights.
        port: To listen on; None takes a free one.
        environment: More environment variables, CUDA_VISIBLE_DEVICES for one.
        log_file: Where the server's output goes; None: a file that is deleted at the end.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    kv_cache_gib: float | None = 1.0
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    enforce_eager: bool = True
    prefix_caching: bool = True
    speculative_tokens: int = 0
    host: str = "127.0.0.1"
    port: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    log_file: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what would fail at once."""
        if self.speculative_tokens < 0:
            raise UserError(f"speculative_tokens: {self.speculative_tokens}; give 0 (none) or more")

    def variables(self) -> dict[str, str]:
        """Environment variables that the server has beside ours."""
        eager = {"TORCHDYNAMO_DISABLE": "1"} if self.enforce_eager else {}
        return eager | self.environment

    def _batched_tokens(self, max_context: int) -> int:
        least = (1 + self.speculative_tokens) * max(max_context, self.max_num_seqs)
        if self.max_num_batched_tokens is None:
            return max(8192, least)
        if self.max_num_batched_tokens < least:
            raise UserError(
                f"max_num_batched_tokens: {self.max_num_batched_tokens}; give at least {least}: the larger "
                f"of max_context {max_context} and max_num_seqs {self.max_num_seqs}, for each drafted token "
                "once more"
            )
        return self.max_num_batched_tokens

    def _drafting(self, directory: Path, max_context: int) -> dict[str, str]:
        """What vLLM is told about drafts, if there shall be any."""
        if not self.speculative_tokens:
            return {}
        settings = speculation(directory, self.speculative_tokens, max_context)
        words = {
            name.replace("_", "-"): json.dumps(value) if isinstance(value, dict) else str(value)
            for name, value in settings.items()
        }
        return words | {"worker-extension-cls": f"{MendedSampling.__module__}.{MendedSampling.__name__}"}

    def command_line(
        self, directory: Path, max_context: int, backend: str, port: int, seed: int
    ) -> list[str]:
        """What vLLM is told, but for the model, which is in the directory."""
        batched_tokens = self._batched_tokens(max_context)
        if self.log_file is not None and not self.log_file.parent.is_dir():
            raise UserError(f"log_file: {self.log_file}; its folder is missing, make it")
        on_cpu = not torch.cuda.is_available()
        options = {
            "host": self.host,
            "port": port,
            "served-model-name": "policy",
            # The head is never tied, so that a sync sets it and the embedding each for itself.
            "hf-overrides": json.dumps({"tie_word_embeddings": False}),
            "weight-transfer-config": json.dumps({"backend": backend}),
            "generation-config": "vllm",  # none of the checkpoint's defaults
            "logprobs-mode": "processed_logprobs",  # of the distribution sampled from, as `engine` defines
            "dtype": "float32" if self.dtype == "auto" and on_cpu else self.dtype,
            "max-model-len": max_context,
            "max-num-seqs": self.max_num_seqs,
            "max-num-batched-tokens": batched_tokens,
            "gpu-memory-utilization": self.gpu_memory_utilization,
            "tensor-parallel-size": self.tensor_parallel_size,
            "seed": seed,
            **self._drafting(directory, max_context),
        }
        if self.kv_cache_gib is not None:
            options["kv-cache-memory-bytes"] = int(self.kv_cache_gib * 2**30)
        switches = [
            "--skip-tokenizer-init",
            "--tokens-only",
            "--no-enable-chunked-prefill",
            "--disable-uvicorn-access-log",
            f"--{'' if self.enforce_eager else 'no-'}enforce-eager",
            f"--{'' if self.prefix_caching else 'no-'}enable-prefix-caching",
        ]
        return [*(word for name, value in options.items() for word in (f"--{name}", str(value))), *switches]


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
