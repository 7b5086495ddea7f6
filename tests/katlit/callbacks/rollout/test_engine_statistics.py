"""What an engine tells of its completions is logged for the step that they belong to."""

from pathlib import Path
from typing import Any

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
