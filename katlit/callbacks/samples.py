"""A table of what the model wrote, to be read in MLflow."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from typing_extensions import override

from katlit.callbacks.step_callback import StepCallback
from katlit.tracking.tables import log_table

COLUMNS = (
    "question", "reference", "difficulty", "judge", "thinking", "answer", "mode", "correct", "rewards",
    "reward", "judge_advantage", "answer_advantage", "tokens",
)  # fmt: skip
DIGITS = 4  # after the point; `RolloutLog` keeps all


class SampleTable(StepCallback):
    """Appends sample rollouts to the run's table `rollouts`; see `katlit.tracking.tables`.

    Reads `batch["samples"]`, a list of mappings with the keys of `COLUMNS`, which the rollout callback fills;
    a stage without rollouts leaves no table. The texts are plain JSON, never HTML: a model cannot write the
    page.

    Args:
        every_n_steps: Optimizer steps between two entries; the first step is always entered.
        rows: Samples per entry, the first ones of the batch on rank 0.
    """

    def __init__(self, every_n_steps: int = 10, rows: int = 16) -> None:
        self.every_n_steps = every_n_steps
        self.rows = rows

    @override
    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        step = trainer.global_step
        if step != 1 and step % self.every_n_steps:
            return
        samples = batch.get("samples", [])[: self.rows]
        if not trainer.is_global_zero or not samples:
            return
        table: dict[str, list[Any]] = {"step": [step] * len(samples)}
        table |= {column: [_shown(sample[column]) for sample in samples] for column in COLUMNS}
        for logger in trainer.loggers:
            log_table(logger, "rollouts", table, step)


def _shown(value: Any) -> Any:
    """A cell of the table: numbers, those of each reward too, with the digits that are read."""
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items()}
    return round(value, DIGITS) if isinstance(value, float) else value
