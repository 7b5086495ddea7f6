"""A logger with the interface of Weights & Biases, which is not installed."""

from typing import Any, ClassVar

from lightning.pytorch.loggers import Logger


class WandbStub(Logger):
    """Has what Lightning's WandbLogger has, as far as it is used."""

    name, version = "stub", 1
    all: ClassVar[list["WandbStub"]] = []

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}
        self.tables: list[Any] = []
        self.metrics: set[str] = set()
        WandbStub.all.append(self)

    def log_hyperparams(self, params: Any, *arguments: Any) -> None:
        self.settings |= params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics |= metrics.keys()

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        self.tables.append((key, columns, data, step))
