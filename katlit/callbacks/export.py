"""The end of a stage: a Hugging Face directory, the only thing that passes to the next stage."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from katlit.callbacks.stage_record import stage_record
from katlit.errors import UserError
from katlit.model.generation import TokenSampling
from katlit.output import after_a_kill, beside, naming_disk_faults, require_writable, set_aside
from katlit.tracking.mlflow import mlflow_loggers

logger = logging.getLogger(__name__)

_SAMPLING = TokenSampling()
_OURS = ("config.json", "adapter_config.json")


class ExportModel(Callback):
    """Exports weights, configuration and tokenizer when training has ended well; not without a step of it.

    What another run left in the directory is moved to a folder `aside-<n>` beside it, never written over; a
    run that goes on from its own checkpoint replaces its own export. A development run (`fast_dev_run`)
    tries the export in a folder that is removed again.

    Args:
        directory: Where to; the next stage's `backbone.init_from`.
        log_to_mlflow: Whether MLflow keeps a copy, as the artifact `model`; too much, perhaps, if large.
        adapter_directory: Where to write the adapters of `backbone.lora` too, in peft's format; null writes
            none. `directory` has them merged in any case.
        sampling: How whoever serves the model samples by default, from `generation_config.json`: as stage 3
            samples and the evaluation's settings files do.
    """

    def __init__(
        self,
        directory: str,
        log_to_mlflow: bool = True,
        adapter_directory: str | None = None,
        sampling: TokenSampling = _SAMPLING,
    ) -> None:
        self.directory = directory
        self.log_to_mlflow = log_to_mlflow
        self.adapter_directory = adapter_directory
        self.sampling = sampling
        self._run = uuid4().hex  # that of rank 0 counts

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"run": self._run}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._run = state_dict["run"]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if trainer.is_global_zero:
            for directory in filter(None, (self.directory, self.adapter_directory)):
                after_a_kill(directory, _OURS)
        trainer.strategy.barrier("what a kill has left is put right")
        _require_place(self.directory, "ExportModel.directory")
        if self.adapter_directory is None:
            return
        _require_place(self.adapter_directory, "ExportModel.adapter_directory")
        if pl_module.backbone.lora is None:
            raise UserError(
                "ExportModel.adapter_directory: there are no adapters; set backbone.lora, or null"
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run and self._is_of_another_run(self.directory):
            logger.warning(
                "ExportModel.directory: %s holds the model of another run; when this one is done, "
                "that is moved to a folder aside-<n> beside it",
                self.directory,
            )

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.global_step:
            logger.warning(
                "no optimizer step was done (trainer.max_steps %s, limit_train_batches %s), so no model is "
                "exported; %s is as it was",
                trainer.max_steps, trainer.limit_train_batches, self.directory,
            )  # fmt: skip
            return
        backbone, stage = pl_module.backbone, stage_record(trainer, pl_module)
        # On every rank: shards are gathered.
        self._write(trainer, self.directory, lambda folder: backbone.export(folder, self.sampling, stage))
        if self.adapter_directory is not None:
            self._write(trainer, self.adapter_directory, backbone.export_adapters)
        if trainer.fast_dev_run or not self.log_to_mlflow or not trainer.is_global_zero:
            return
        for tracker in mlflow_loggers(trainer.loggers):
            tracker.log_folder(Path(self.directory), "model")

    def _write(self, trainer: Trainer, directory: str, export: Callable[[str], None]) -> None:
        target = Path(directory).absolute()
        another = trainer.is_global_zero and self._is_of_another_run(directory)
        with naming_disk_faults(target.parent, "ExportModel.directory"):
            if not trainer.strategy.broadcast(another) and not trainer.fast_dev_run:
                export(directory)
            else:
                _write_beside(trainer, directory, export)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            _mark(directory).write_text(self._run, encoding="utf-8")

    def _is_of_another_run(self, directory: str) -> bool:
        mark = _mark(directory)
        own = mark.is_file() and mark.read_text(encoding="utf-8") == self._run
        return any(Path(directory).iterdir()) and not own


def _mark(directory: str) -> Path:
    """The file beside an export that says which run wrote it."""
    target = Path(directory).absolute()
    return target.with_name(f".{target.name}.run")


def _write_beside(trainer: Trainer, directory: str, export: Callable[[str], None]) -> None:
    """Export, and only then move away what is there; a development run leaves that."""
    target = Path(directory).absolute()
    with beside(target) if trainer.is_global_zero else nullcontext() as local:
        export(trainer.strategy.broadcast(str(local)))
        if local is not None and trainer.fast_dev_run:
            logger.info("a development run leaves no export: %s is as it was", directory)
        elif local is not None:
            aside = set_aside([target], target.parent)
            local.rename(target)
            logger.warning("the model of another run in %s was moved to %s", directory, aside)


def _require_place(directory: str, key: str) -> None:
    """Refuse, before training, what could not be written to, or holds something else than a model."""
    require_writable(directory, key)
    folder = Path(directory)
    ours = _mark(directory).is_file() or any((folder / name).is_file() for name in _OURS)
    if any(folder.iterdir()) and not ours:
        raise UserError(f"{key}: {directory!r} holds other files, no model; choose another place")
