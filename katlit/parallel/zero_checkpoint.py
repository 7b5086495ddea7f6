"""DeepSpeed's split checkpoints, read on one process.

DeepSpeed's own reader puts the weights together and leaves the optimizer out. Its moments lie in the same
partitions as the weights' float32 copies, so the same reader is shown a checkpoint with the moments in the
weights' place.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from katlit.errors import UserError

_LATEST = "latest"  # names the folder of the parts
_OF_DEEPSPEED = {  # the rest of a part is Lightning's, the DataModule's and the callbacks'
    "buffer_names", "checkpoint_parallel_dimensions", "data_sampler", "dp_world_size", "ds_config",
    "ds_version", "frozen_param_fragments", "frozen_param_shapes", "global_samples", "global_steps",
    "lr_scheduler", "module", "mp_world_size", "optimizer", "param_shapes", "random_ltd", "shared_params",
    "skipped_steps",
}  # fmt: skip
_MOMENTS = ("exp_avg", "exp_avg_sq")


def is_zero_checkpoint(directory: Path) -> bool:
    """Whether DeepSpeed wrote this folder."""
    return (directory / _LATEST).is_file()


def read_zero_checkpoint(directory: Path, scratch: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a split checkpoint holds, on the CPU.

    Args:
        directory: The folder.
        scratch: A folder for as much data as the weights' float32 copies.

    Returns:
        Lightning's content, with whole weights; and the optimizer's state and groups under the names of the
        parameters.

    Raises:
        UserError: where parts are missing, or DeepSpeed is not installed.
    """
    tag = (directory / _LATEST).read_text(encoding="utf-8").strip()
    models = sorted((directory / tag).glob("*_model_states.pt"))
    parts = [_load(file) for file in sorted((directory / tag).glob("*_optim_states.pt"))]
    model: dict[str, Any] = _load(models[0]) if models else {"dp_world_size": "an unknown number"}
    if len(parts) != model["dp_world_size"]:
        raise UserError(
            f"{directory}: the parts of {len(parts)} ranks are there, {model['dp_world_size']} were written; "
            "copy the missing files from the machines of the run, or take another checkpoint"
        )
    content = {key: value for key, value in model.items() if key not in _OF_DEEPSPEED}
    content["state_dict"] = _whole(directory)
    moments = {}
    for moment in _MOMENTS:
        _write_as_weights(parts, moment, directory / tag, scratch)
        moments[moment] = _whole(scratch)
    return content, _by_name(_optimizer(parts[0]), model["param_shapes"], moments)


def _load(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise UserError("ZeRO's checkpoints need DeepSpeed; install katlit[deepspeed]") from error
    return content


def _whole(directory: Path) -> dict[str, Tensor]:
    """Whole float32 tensors, by DeepSpeed's reader, without what it prints."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        whole = get_fp32_state_dict_from_zero_checkpoint(str(directory))
    return {name: weight.clone() for name, weight in whole.items()}


def _optimizer(part: dict[str, Any]) -> dict[str, Any]:
    """State by number of the flat group, and groups; stage 3 has another name for it."""
    state = part["optimizer_state_dict"]
    optimizer: dict[str, Any] = state[
        "optimizer_state_dict" if state["zero_stage"] == 3 else "base_optimizer_state"
    ]
    return optimizer


def _write_as_weights(parts: list[dict[str, Any]], moment: str, original: Path, scratch: Path) -> None:
    """A checkpoint in `scratch` like the original, but for a moment in the place of the weights."""
    folder = scratch / original.name
    folder.mkdir(exist_ok=True)
    (scratch / _LATEST).write_text(original.name, encoding="utf-8")
    for file in original.glob("*_model_states.pt"):
        link = folder / file.name
        if not link.exists():
            link.symlink_to(file.resolve())
    names = [file.name for file in sorted(original.glob("*_optim_states.pt"))]
    for name, part in zip(names, parts, strict=True):
        state = part["optimizer_state_dict"]
        groups = _optimizer(part)["state"]
        key = "fp32_flat_groups" if state["zero_stage"] == 3 else "single_partition_of_fp32_groups"
        flat = [groups[number][moment] for number in sorted(groups)]
        torch.save(part | {"optimizer_state_dict": state | {key: flat}}, folder / name)


def _by_name(
    optimizer: dict[str, Any], shapes: list[dict[str, torch.Size]], moments: dict[str, dict[str, Tensor]]
) -> dict[str, Any]:
    step = optimizer["state"][0]["step"]  # the same for all: every step moves every parameter
    return {
        "state": {
            name: {"step": step.clone()} | {moment: moments[moment][name] for moment in _MOMENTS}
            for group in shapes
            for name in group
        },
        "param_groups": [
            {**settings, "params": list(group)}
            for settings, group in zip(optimizer["param_groups"], shapes, strict=True)
        ],
    }
