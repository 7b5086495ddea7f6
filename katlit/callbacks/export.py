"""The end of a stage: a Hugging Face directory, the only thing that passes to the next stage."""

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from katlit.callbacks.stage_record import stage_record
from katlit.errors import UserError
from katlit.model.generation import TokenSampling
from katlit.output import require_writable
from katlit.tracking.mlflow import mlflow_loggers

_SAMPLING = TokenSampling()


class ExportModel(Callback):
    """Exports weights, configuration and tokenizer when training has ended well.

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

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        require_writable(self.directory, "ExportModel.directory")
        if self.adapter_directory is None:
            return
        require_writable(self.adapter_directory, "ExportModel.adapter_directory")
        if pl_module.backbone.lora is None:
            raise UserError(
                "ExportModel.adapter_directory: there are no adapters; set backbone.lora, or null"
            )

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stage = stage_record(trainer, pl_module)
        # On every rank: shards are gathered.
        pl_module.backbone.export(self.directory, self.sampling, stage)
        if self.adapter_directory is not None:
            pl_module.backbone.export_adapters(self.adapter_directory)
        if not self.log_to_mlflow or not trainer.is_global_zero:
            return
        for logger in mlflow_loggers(trainer.loggers):
            logger.experiment.log_artifacts(logger.run_id, self.directory, "model")
