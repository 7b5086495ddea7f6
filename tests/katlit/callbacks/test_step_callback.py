"""Once an optimizer step, also after a resume."""

from types import SimpleNamespace
from typing import Any

from katlit.callbacks.step_callback import StepCallback


class Note(StepCallback):
    def __init__(self) -> None:
        self.steps: list[tuple[int, Any]] = []

    def on_step_end(self, trainer: Any, pl_module: Any, batch: Any) -> None:
        self.steps.append((trainer.global_step, batch))


def test_it_acts_after_the_last_batch_of_each_step() -> None:
    note = Note()
    trainer: Any = SimpleNamespace(global_step=7)
    module: Any = None
    note.on_train_start(trainer, module)
    for batch in range(6):
        trainer.global_step += batch % 3 == 2
        note.on_train_batch_end(trainer, module, None, batch, batch)
    assert note.steps == [(8, 2), (9, 5)]
