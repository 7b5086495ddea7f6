"""What an engine tells of its completions is logged for the step that they belong to."""

from csv import DictReader
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from tinyrollouts import BATCHES, Finishing, prompt, train

from katlit.engines import Completion
from katlit.metrics.tally import Tally


class Telling(Finishing):
    """Tells how many completions there were since it was last asked, of eight."""

    number = 0

    def generate(self, *arguments: Any, **settings: Any) -> list[Completion]:
        completions = super().generate(*arguments, **settings)
        self.number += len(completions)
        return completions

    def statistics(self) -> dict[str, Tally]:
        number, self.number = self.number, 0
        return {"draft_acceptance": Tally(number, 8)}


def test_what_an_engine_tells_is_of_the_step_alone(tmp_path: Path) -> None:
    engine = Telling()
    watch, _, _ = train(tmp_path, engine, BATCHES, samples=4, validation=[[prompt(10)]])
    assert [logged["rollout/draft_acceptance"] for logged in watch.logged] == [1.0] * 4
    assert engine.number == 0  # those of the validation are not the next step's


class Looking(Finishing):
    """Tells at every second step how busy it was; nobody has looked at the others."""

    steps = 0

    def statistics(self) -> dict[str, Tally]:
        self.steps += 1
        return {"throughput/kv_cache_use": Tally(0.5, 1) if self.steps % 2 == 0 else Tally(0.0, 0)}


def test_nothing_is_logged_of_a_step_that_nobody_looked_at(tmp_path: Path) -> None:
    fit = {"max_epochs": 1, "logger": CSVLogger(tmp_path), "log_every_n_steps": 1}
    watch, _, _ = train(tmp_path, Looking(), BATCHES, samples=4, fit={"enable_checkpointing": False} | fit)
    (path,) = tmp_path.rglob("metrics.csv")
    with path.open() as file:
        uses = {row["step"]: row["throughput/kv_cache_use"] for row in DictReader(file)}
    assert [*uses.values()] == ["", "0.5", "", "0.5"]
    assert [logged.get("throughput/kv_cache_use") for logged in watch.logged] == [None, 0.5, None, 0.5]
