"""`katlit plan`: the settings of `fit`, and how much memory they would take."""

import os
import sys
from collections.abc import Sequence

import torch
from jsonargparse import Namespace
from typing_extensions import override

from katlit.commands.plan.report import render
from katlit.commands.plan.report import table as as_table
from katlit.commands.plan.settings import Overrides, device_count, memory_size, read_job
from katlit.commands.trainer import KatCLI, KatTrainer, run
from katlit.errors import UserError, require
from katlit.stage.module import KatModule


class Planner(KatTrainer):
    """Gives `plan` the trainer's settings; it is never instantiated, so no device needs to be there."""

    @staticmethod
    def plan(
        model: KatModule,
        settings: Namespace,
        memory: str | None = None,
        rollout_tokens: int | None = None,
        row_tokens: int | None = None,
        table: list[int] | None = None,
    ) -> str:
        """Say how much memory a training run would take on each device, found out without any weights.

        Args:
            model: The stage.
            settings: Those of `fit`.
            memory: Memory of one device: 80 or 80GB for one that is sold with 80 GB, which has 79 GiB,
                or with another unit, 79GiB; by default that of this machine's.
            rollout_tokens: Mean length of a rollout, its prompt included; by default max_context.
            row_tokens: Length of the rows, where the settings leave it open.
            table: Print a table for these numbers of devices instead.
        """
        if not isinstance(model, KatModule):
            raise UserError(
                f"model: {type(model).__name__} is no stage of katlit; plan one of katlit.modules"
            )
        available = own_memory(settings.trainer) if memory is None else memory_size(memory)
        on_gpu = settings.trainer.accelerator != "cpu" and (memory is not None or torch.cuda.is_available())
        job = read_job(model, settings, Overrides(available, rollout_tokens, row_tokens, on_gpu))
        if table is None:
            return render(job)
        require(min(table, default=0) >= 1, "table", table, "numbers of devices, each at least 1")
        return as_table(job, table)


class PlanCLI(KatCLI):
    """Parses as `fit` does, and instantiates the model only."""

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        return {"plan": {"model", "settings"}}

    @override
    def _set_seed(self) -> None:
        """Nothing is random."""

    @override
    def build(self) -> None:
        """Plan, and be done: there is neither trainer nor data."""
        settings = self.config["plan"]
        parser = self._parser("plan")
        self.model = parser.instantiate_classes(Namespace(model=settings.model)).model
        given = {name: settings[name] for name in self._subcommand_method_arguments["plan"]}
        sys.stdout.write(Planner.plan(self.model, settings, **given) + "\n")
        self.subcommand = None

    @override
    def after_instantiate_classes(self) -> None:
        """Nothing is written."""


def own_memory(trainer: Namespace) -> int:
    """Memory of this machine's GPU, or of the host, shared by its processes."""
    if trainer.accelerator != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return host // device_count(trainer.devices)


def main(arguments: Sequence[str]) -> int:
    """Plan one command line."""
    run(arguments, PlanCLI, Planner)
    return 0
