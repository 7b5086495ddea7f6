"""Weights written as a Hugging Face directory, file by file, so that few are in memory at a time."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


def write_checkpoint(
    named_weights: Iterable[tuple[str, Tensor]], directory: Path, config: Path, shard_bytes: int = 2**30
) -> None:
    """Write weights, their index and a copy of the configuration into a new directory.

    Args:
        named_weights: Under the names that vLLM loads.
        directory: Made here.
        config: The model's `config.json`.
        shard_bytes: A file is closed when it holds so much.
    """
    directory.mkdir()
    shutil.copy(config, directory / "config.json")
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    size = number = 0
    for name, weight in named_weights:
        # A copy: safetensors refuses tensors that share memory, as a tied head and its embedding do.
        copied = torch.empty(weight.shape, dtype=weight.dtype).copy_(weight.detach())
        shard[name], weight_map[name] = copied, f"model-{number:05d}.safetensors"
        size += copied.nbytes
        if size >= shard_bytes:
            save_file(shard, directory / weight_map[name])
            shard, size, number = {}, 0, number + 1
    if shard:
        save_file(shard, directory / f"model-{number:05d}.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def checkpoint_files(directory: Path) -> list[str]:
    """The files of `write_checkpoint` that hold weights."""
    return sorted(map(str, directory.glob("model-*.safetensors")))
