"""`katlit consolidate`: a checkpoint that a strategy has split over the ranks, as one file for any other."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Any

import torch

from katlit.errors import UserError
from katlit.output import require_writable
from katlit.parallel.zero_checkpoint import is_zero_checkpoint, read_zero_checkpoint

_DCP_INDEX = ".metadata"  # of torch.distributed.checkpoint, which FSDP2 writes
_LIGHTNING = "meta.pt"  # what Lightning keeps beside it


def main(arguments: Sequence[str]) -> int:
    """Write a checkpoint of FSDP2 or ZeRO that you trust as one file, optimizer included.

    Args:
        arguments: What follows `katlit consolidate`; `--help` lists them.

    Returns:
        The exit status.

    Raises:
        UserError: where there is no such checkpoint, or the file exists or cannot be written.
    """
    parser = argparse.ArgumentParser(prog="katlit consolidate", description=main.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--checkpoint", required=True, help="the folder that the strategy wrote")
    parser.add_argument("--output", required=True, help="the file, for --ckpt_path of another strategy")
    options = parser.parse_args(list(arguments))
    output = Path(options.output)
    if output.exists():
        raise UserError(f"--output: {options.output!r} exists; name another file")
    require_writable(output.parent, "--output")
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        partial = Path(folder) / "whole"
        torch.save(consolidated(Path(options.checkpoint), Path(folder)), partial)
        partial.replace(output)
    return 0


def consolidated(checkpoint: Path, scratch: Path) -> dict[str, Any]:
    """The content of a split checkpoint in the form of a single-process one, on the CPU.

    Only for checkpoints that you trust: what torch and DeepSpeed keep beside the tensors is unpickled, and
    can run any code.

    Args:
        checkpoint: The folder.
        scratch: A folder for as much data again.

    Raises:
        UserError: where it holds no checkpoint of FSDP2 or ZeRO.
    """
    if (checkpoint / _DCP_INDEX).is_file() and (checkpoint / _LIGHTNING).is_file():
        return _read_dcp(checkpoint, scratch)
    if is_zero_checkpoint(checkpoint):
        content, optimizer = read_zero_checkpoint(checkpoint, scratch)
        return _with_optimizer(content, optimizer)
    raise UserError(
        f"--checkpoint: {str(checkpoint)!r} is no split checkpoint of FSDP2 or ZeRO; give a folder "
        "step-….ckpt of theirs (checkpoints of DDP and of a single process are one file already)"
    )


def _read_dcp(checkpoint: Path, scratch: Path) -> dict[str, Any]:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    tensors = scratch / "tensors"
    dcp_to_torch_save(checkpoint, tensors)
    content = torch.load(tensors, map_location="cpu", weights_only=True)
    tensors.unlink()
    try:
        meta: dict[str, Any] = torch.load(checkpoint / _LIGHTNING, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"{checkpoint / _LIGHTNING}: holds objects of classes, which could run code as they are read and "
            "which no run goes on from; keep plain values in the state of a callback"
        ) from error
    return _with_optimizer(meta | {"state_dict": content["state_dict"]}, content["optimizer_0"])


def _with_optimizer(content: dict[str, Any], optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """Add the optimizer, which comes under names of parameters, under their numbers, as torch keeps it."""
    groups = optimizer["param_groups"]
    number = {name: index for index, name in enumerate(name for group in groups for name in group["params"])}
    by_number = {
        "state": {number[name]: dict(values) for name, values in optimizer["state"].items()},
        "param_groups": [{**group, "params": [number[name] for name in group["params"]]} for group in groups],
    }
    return content | {"optimizer_states": [by_number]}
