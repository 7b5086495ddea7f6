"""Tables of texts for whatever logger a trainer has: MLflow's, TensorBoard's, Weights & Biases'."""

import json
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers.logger import Logger

from katlit.tracking.mlflow import KatMLFlowLogger


def log_table(logger: Logger, name: str, table: Mapping[str, list[Any]], step: int) -> None:
    """Log a table; a logger that takes neither tables nor texts is left alone.

    In MLflow rows are appended to the artifact `<name>.json`. The other two get a table for each step, which
    TensorBoard shows as lines of JSON: nothing that a model writes is markup.

    Args:
        logger: One of the trainer's loggers.
        name: Name of the table.
        table: The rows, by columns.
        step: The optimizer step.
    """
    rows = [list(row) for row in zip(*table.values(), strict=True)]
    if isinstance(logger, KatMLFlowLogger):
        logger.log_table(table, f"{name}.json")
    elif hasattr(logger, "log_table"):  # Weights & Biases
        logger.log_table(key=name, columns=list(table), data=rows, step=step)
    elif hasattr(logger.experiment, "add_text"):  # TensorBoard
        lines = [json.dumps(dict(zip(table, row, strict=True)), ensure_ascii=False) for row in rows]
        logger.experiment.add_text(name, "\n".join(f"    {line}" for line in lines), step)
