"""The weights that a recorded rollout was sampled from, as far as they are still there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from tempfile import gettempdir
from typing import Any

import torch

from katlit.callbacks.checkpoint_files import checkpoints, step_of
from katlit.commands.consolidate import consolidated
from katlit.errors import UserError, first_line
from katlit.model.backbone import Backbone
from katlit.output import scratch_folder

_PREFIX = "backbone."  # of its weights in a checkpoint


def source_of(step: int, checkpoint_folder: Path) -> Path | None:
    """The checkpoint after so many optimizer steps; None of step 0, which the run began with.

    Raises:
        UserError: where there is none, saying what there is and how it can be had.
    """
    if step == 0:
        return None
    found = checkpoints(checkpoint_folder)
    for path in found:
        if step_of(path) == step:
            return path
    known = ", ".join(str(step_of(path)) for path in found) or "none"
    raise UserError(
        f"no weights of step {step}: {checkpoint_folder} has checkpoints of steps {known}. Give them by "
        "--model, or go on from an earlier checkpoint, or afresh, with --checkpoint.every_n_steps=1 "
        "--checkpoint.keep=null: the same settings give the same weights"
    )


@contextmanager
def model_directory(source: Path | None, backbone: Backbone) -> Iterator[Path]:
    """A Hugging Face directory that an engine can start from; what has to be made for it is gone afterwards.

    Args:
        source: A directory of that kind, or a checkpoint of a run; None takes the weights that the run began
            with.
        backbone: With the settings of the run.

    Raises:
        UserError: where the source is neither, or its weights are those of another model.
    """
    if source is not None and not source.exists():
        raise UserError(f"--model: {str(source)!r} does not exist; give a model directory or a checkpoint")
    if source is not None and (source / "config.json").is_file():
        yield source
        return
    with scratch_folder(Path(gettempdir()), "katlit-replay-") as folder:
        backbone.materialize()
        if source is not None:
            _load(backbone, source, folder)
        backbone.export(folder / "model")
        yield folder / "model"


def _load(backbone: Backbone, checkpoint: Path, scratch: Path) -> None:
    weights: dict[str, Any] = _content(checkpoint, scratch).get("state_dict", {})
    own = {name.removeprefix(_PREFIX): w for name, w in weights.items() if name.startswith(_PREFIX)}
    try:
        backbone.load_state_dict(own)
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint}: its weights do not fit the model in the run's config.yaml ({first_line(error)}); "
            "give a checkpoint of this run"
        ) from error


def _content(checkpoint: Path, scratch: Path) -> dict[str, Any]:
    if checkpoint.is_dir():
        return consolidated(checkpoint, scratch)
    try:
        content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise UserError(
            f"--model: {str(checkpoint)!r} holds objects of classes, which could run code as they are read; "
            "give a checkpoint of `katlit fit`"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise UserError(
            f"--model: {str(checkpoint)!r} is no checkpoint ({first_line(error)}); give a checkpoint of "
            "`katlit fit`, or an exported model directory"
        ) from error
    return content
