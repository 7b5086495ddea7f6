"""Labelling as tasks that any executor of datatrove runs: each asks for a share, the last makes the records.

A step is what datatrove calls with the number of a task, so nothing of it is imported here. All tasks must
see the same `cache_dir`, where each reply is kept as it comes; so a task that is killed and run again asks
for the rest of its share only, and the records are those that one process would make.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from typing_extensions import override

from katlit.commands.trainer import KatCLI, run
from katlit.errors import UserError


class _DataCLI(KatCLI):
    """Builds what `katlit label` needs, and runs nothing."""

    @override
    def after_instantiate_classes(self) -> None:
        super().after_instantiate_classes()
        self.subcommand = None


@lru_cache(1)
def _data_of(words: tuple[str, ...]) -> Any:
    """The data that `katlit label` would label; built once for all tasks of a process."""
    cli = run(["label", *words], _DataCLI)
    cli.datamodule.trainer = cli.trainer
    return cli.datamodule


@dataclass(frozen=True)
class Step:
    """The work of a task; datatrove calls it.

    Attributes:
        words: What follows `katlit label`.
        work: `survey` asks for what must be known of all queries first, as tags are, and `label` for all
            else, each of a share of the queries; `records` makes the records.
    """

    words: tuple[str, ...]
    work: Literal["survey", "label", "records"]

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Do it.

        Args:
            data: Documents of a step before; there are none.
            rank: Number of the task.
            world_size: How many tasks there are.
        """
        del data
        labelled = _data_of(self.words)
        if self.work == "survey":
            labelled.survey_share(rank, world_size)
        elif self.work == "label":
            labelled.label_share(rank, world_size)
        else:
            labelled.prepare_data()


@dataclass(frozen=True)
class Stage:
    """Tasks that may run at the same time.

    Attributes:
        name: What they do.
        step: What is called, the only one of their pipeline.
        tasks: How many they are.
        folder: Where datatrove marks those that are done; other settings have another one.
    """

    name: str
    step: Step
    tasks: int
    folder: str


def stages(words: Sequence[str], tasks: int) -> list[Stage]:
    """Return the stages of labelling, each to be run when the one before is done.

    How models think that a task will load is found out here, where it is not known.

    Args:
        words: What follows `katlit label`.
        tasks: Shares of the queries.

    Raises:
        UserError: where the settings are wrong, or label nothing.
    """
    data = _data_of(tuple(words))
    if getattr(data, "shared_folder", lambda: None)() is None:
        raise UserError("data: it has nothing to label; give a labeller, and no records_file")
    data.settle_models()
    path = data.records_path().absolute()
    folder = path.with_name(f"tasks-{path.stem}-{tasks}")
    return [
        Stage(work, Step(tuple(words), work), 1 if work == "records" else tasks, str(folder / work))
        for work in ("survey", "label", "records")
    ]
