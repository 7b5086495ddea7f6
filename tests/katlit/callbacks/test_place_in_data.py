"""Where a resumed run goes on in its data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from killable import ROOT
from lightning.pytorch import Trainer
from tinystage import TinyStage

from katlit.batch import TokenBatch
from katlit.callbacks.checkpoint import StepCheckpoint
from katlit.callbacks.checkpoint_files import checkpoints
from katlit.callbacks.place_in_data import find_place
from katlit.datamodules import ColdStartData
from katlit.datamodules.base import BatchSettings
from katlit.datamodules.records import Record, write_records
from katlit.errors import UserError
from katlit.text.protocol import Mode

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


Rows = list[list[int]]
Run = Callable[..., list[Rows]]
FEWER = BatchSettings(batch_tokens=128, validation_share=0)
MORE = replace(FEWER, batch_tokens=256)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Trains 40 steps, with a checkpoint after each; returns the documents of each batch."""
    record = Record(
        id="0", messages=[{"role": "user", "content": "1+2"}], regime=Mode.THINK_OFF, judge="plain", think="",
        answer="3",
    )  # fmt: skip
    write_records(tmp_path / "rows.jsonl", [replace(record, id=str(n), answer="3" * n) for n in range(1, 13)])

    def train(batches: BatchSettings, folder: str, ckpt_path: Path | None = None) -> list[Rows]:
        rows = str(tmp_path / "rows.jsonl")
        data = ColdStartData(str(ROOT / "assets/student"), records_file=rows, batches=batches)
        seen: list[Rows] = []
        build = data.build

        def note(rows: Rows) -> TokenBatch:
            seen.append(rows)
            return build(rows)

        data.build = note  # type: ignore[method-assign]
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            max_steps=40, callbacks=[StepCheckpoint(str(tmp_path / folder), every_n_steps=1, keep=None)],
        )  # fmt: skip
        trainer.fit(Wide(), data, ckpt_path=ckpt_path)
        return seen

    return train


class Wide(TinyStage):
    """Takes batches of any width."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.backbone.layer(batch["input_ids"][:1, :4].float()).square().mean() * 0


@pytest.mark.parametrize(("before", "after"), [(MORE, FEWER), (FEWER, MORE)])
def test_with_other_batches_the_present_epoch_starts_anew(
    before: BatchSettings, after: BatchSettings, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, first = run(after, "after"), run(before, "before")
    epoch, of_before = len(first_epoch(whole)), len(first_epoch(first))
    assert epoch != of_before
    saved = checkpoints(tmp_path / "before")
    for path, over in ((saved[of_before], False), (saved[of_before - 1], True)):
        caplog.clear()
        resumed = run(after, "resumed", path)
        assert resumed[: 2 * epoch] == whole[epoch : 3 * epoch]
        told = f"batch_tokens: the checkpoint has {before.batch_tokens}, now {after.batch_tokens}; the"
        assert f"{told} {'next' if over else 'present'} epoch" in caplog.text


def first_epoch(seen: list[Rows]) -> list[Rows]:
    """The batches of the first epoch."""
    numbers: set[int] = set()
    for count, rows in enumerate(seen):
        found = {index for row in rows for index in row}
        if numbers & found:
            return seen[:count]
        numbers |= found
    return seen


@pytest.mark.parametrize(("saved_by", "parts", "ready"), [(1, 1, 3), (2, 1, 6), (2, 3, 6), (4, 2, 12)])
def test_a_place_in_the_data_is_counted_in_batches_of_one_process(
    saved_by: int, parts: int, ready: int
) -> None:
    trainer: Any = SimpleNamespace(distributed_sampler_kwargs=None, accumulate_grad_batches=parts)
    progress = {"ready": 3, "started": 3, "processed": 3, "completed": 2}
    find_place(trainer, {"epoch_loop.batch_progress": {"current": progress}}, saved_by)
    assert progress == {"ready": ready, "started": ready, "processed": ready, "completed": ready - 1}


def test_a_place_within_an_optimizer_step_is_refused() -> None:
    trainer: Any = SimpleNamespace(distributed_sampler_kwargs={"num_replicas": 2}, accumulate_grad_batches=2)
    progress = {"ready": 3, "started": 3, "processed": 3, "completed": 2}
    with pytest.raises(UserError, match="6 batches into an epoch, which is within a step of 4"):
        find_place(trainer, {"epoch_loop.batch_progress": {"current": progress}}, saved_by=2)
