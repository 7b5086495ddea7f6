"""Weights on their way into an engine: read from a directory, checked name by name, or written to files."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from katlit.errors import UserError

HEAD = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"

Shapes = Mapping[str, torch.Size]


def checkpoint_weights(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a Hugging Face directory, the output head included even where the embedding serves as head.

    Args:
        directory: Holds `model.safetensors`, or shards with their index; files that the index does not name
            are left alone.

    Raises:
        UserError: where there are no safetensors, or neither a head nor an embedding to take its place.
    """
    embedding: Tensor | None = None
    has_head = False
    for file in _files(directory):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                tensor = tensors.get_tensor(name)
                has_head = has_head or name == HEAD
                embedding = tensor if name == _EMBEDDING else embedding
                yield name, tensor
    if has_head:
        return
    if embedding is None:
        raise UserError(
            f"{directory}: holds neither {HEAD!r} nor {_EMBEDDING!r}; only Llama-like models are known"
        )
    yield HEAD, embedding


def _files(directory: Path) -> list[Path]:
    index = directory / _INDEX
    if index.is_file():
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return [directory / name for name in sorted(set(weight_map.values()))]
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    raise UserError(f"{directory}: holds no {_SINGLE!r} nor {_INDEX!r}; give an exported model directory")


def checked(named_weights: Iterable[tuple[str, Tensor]], expected: Shapes) -> Iterator[tuple[str, Tensor]]:
    """Pass the weights on, and refuse those that are not exactly the expected ones.

    Raises:
        UserError: at the first unknown or repeated name or other shape; at the end, if names are missing.
    """
    missing = dict(expected)
    for name, weight in named_weights:
        shape = missing.pop(name, None)
        if shape is None:
            problem = "sent twice" if name in expected else "unknown to the engine's model"
            raise UserError(
                f"weight sync: {name!r} is {problem}; start the engine from an export of this model"
            )
        if weight.shape != shape:
            raise UserError(
                f"weight sync: {name!r} has shape {list(weight.shape)}, the engine's {list(shape)}; start "
                "the engine from an export of this model"
            )
        yield name, weight
    if missing:
        raise UserError(
            f"weight sync: {len(missing)} of {len(expected)} weights are missing, first "
            f"{next(iter(missing))!r}; send every weight, the output head too where it is tied"
        )


def write_checkpoint(
    named_weights: Iterable[tuple[str, Tensor]],
    directory: Path,
    config: Path,
    dtype: torch.dtype | None = None,
    shard_bytes: int = 2**30,
) -> None:
    """Write weights, their index and a copy of the configuration into a new directory.

    Args:
        named_weights: Under the names that vLLM loads.
        directory: Made here.
        config: The model's `config.json`.
        dtype: Type to write them in; None: their own.
        shard_bytes: A file is closed when it holds so much.
    """
    directory.mkdir()
    shutil.copy(config, directory / "config.json")
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    size = number = 0
    for name, weight in named_weights:
        # A copy: safetensors refuses tensors that share memory, as a tied head and its embedding do.
        copied = torch.empty(weight.shape, dtype=dtype or weight.dtype).copy_(weight.detach())
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
