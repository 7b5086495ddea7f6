import os
import random
import signal
from pathlib import Path
from pickle import PicklingError
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tinystage import TinyData, TinyStage

from katlit.callbacks.checkpoint import StepCheckpoint
from katlit.callbacks.checkpoint_files import StreamedCheckpointIO, checkpoints, damage, keep_sizes
from katlit.datamodules.loader import EpochLoader
from katlit.errors import UserError


class Draws(Callback):
    """Draws from every source of randomness after each step."""

    def __init__(self) -> None:
        self.drawn: list[tuple[float, ...]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))


def quiet_trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[*callbacks], **settings,
    )  # fmt: skip


def fit(saver: StepCheckpoint, steps: int, seed: int = 0, **settings: Any) -> Draws:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    draws = Draws()
    trainer = quiet_trainer(draws, saver, max_steps=steps, max_epochs=-1)
    loader = EpochLoader(lambda epoch: range(20), lambda index: {"input_ids": torch.tensor([1, 2, index, 0])})
    trainer.fit(TinyStage(), loader, **settings)
    return draws


def names(directory: Path) -> list[str]:
    return [path.name for path in checkpoints(directory)]


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def test_the_newest_are_kept_the_last_step_among_them(tmp_path: Path) -> None:
    fit(StepCheckpoint(str(tmp_path), every_n_steps=2, keep=2), 7)
    assert names(tmp_path) == ["step-00000006.ckpt", "step-00000007.ckpt"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_written_tensor_by_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def image(checkpoint: Any, path: Any) -> None:
        raise AssertionError("an image of the file was made in memory")

    monkeypatch.setattr("lightning.fabric.plugins.io.torch_io._atomic_save", image)
    fit(StepCheckpoint(str(tmp_path)), 1)
    assert names(tmp_path) == ["step-00000001.ckpt"]


def test_all_are_kept_where_no_number_is_given(tmp_path: Path) -> None:
    fit(StepCheckpoint(str(tmp_path), every_n_steps=3, keep=None), 6)
    assert names(tmp_path) == ["step-00000003.ckpt", "step-00000006.ckpt"]


def test_every_random_state_goes_on(tmp_path: Path) -> None:
    whole = fit(StepCheckpoint(str(tmp_path), every_n_steps=2, keep=None), 6).drawn
    again = StepCheckpoint(str(tmp_path / "again"))
    resumed = fit(again, 6, seed=5, ckpt_path=tmp_path / "step-00000004.ckpt").drawn
    assert resumed == whole[4:]


def test_another_number_of_processes_starts_random_states_afresh(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(StepCheckpoint(str(tmp_path)), 2)
    (written,) = checkpoints(tmp_path)
    content = torch.load(written)
    content["random_states"] *= 2
    torch.save(content, written)
    fit(StepCheckpoint(str(tmp_path / "again")), 3, ckpt_path=written)
    assert "the checkpoint is of 2 processes, this run has 1" in caplog.text


def test_what_a_kill_left_is_no_checkpoint_and_is_removed(tmp_path: Path) -> None:
    (tmp_path / "step-00000009.ckpt.partial").write_bytes(b"half")
    (tmp_path / "step-00000008.ckpt.partial").mkdir()
    assert checkpoints(tmp_path) == []
    fit(StepCheckpoint(str(tmp_path)), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.ckpt"]


def test_a_failed_write_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(StepCheckpoint(str(tmp_path)), 2)
    before = checkpoints(tmp_path)[0].read_bytes()

    def half(self: Trainer, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", half)
    with pytest.raises(UserError, match=r"checkpoint\.directory: .*No space .* make room"):
        fit(StepCheckpoint(str(tmp_path)), 4, ckpt_path=tmp_path / "step-00000002.ckpt")
    assert names(tmp_path) == ["step-00000002.ckpt"]
    assert checkpoints(tmp_path)[0].read_bytes() == before


@pytest.mark.parametrize("settings", [{"every_n_steps": 0}, {"keep": 0}])
def test_impossible_numbers_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="give at least 1"):
        StepCheckpoint(**settings)


def test_what_an_earlier_run_left_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(StepCheckpoint(str(tmp_path), every_n_steps=2), 4)
    old = checkpoints(tmp_path)[-1].read_bytes()
    fit(StepCheckpoint(str(tmp_path), every_n_steps=2), 2)
    assert names(tmp_path) == ["step-00000002.ckpt"]
    assert names(tmp_path / "aside-1") == ["step-00000002.ckpt", "step-00000004.ckpt"]
    assert (tmp_path / "aside-1/step-00000004.ckpt").read_bytes() == old
    assert f"2 later checkpoints of an earlier run were moved to {tmp_path}/aside-1" in caplog.text
    fit(StepCheckpoint(str(tmp_path), every_n_steps=2), 4, ckpt_path=tmp_path / "step-00000002.ckpt")
    fit(StepCheckpoint(str(tmp_path), every_n_steps=3), 3, ckpt_path=tmp_path / "step-00000002.ckpt")
    assert names(tmp_path) == ["step-00000002.ckpt", "step-00000003.ckpt"]
    assert names(tmp_path / "aside-2") == ["step-00000004.ckpt"]


def test_a_development_run_writes_none(tmp_path: Path) -> None:
    trainer = quiet_trainer(StepCheckpoint(str(tmp_path), every_n_steps=1), fast_dev_run=2)
    trainer.fit(TinyStage(), datamodule=TinyData())
    assert list(tmp_path.iterdir()) == []


class Terminate(Callback):
    """Sends this process a SIGTERM within an optimizer step."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_is_heeded_when_the_optimizer_step_is_complete(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    saver = StepCheckpoint(str(tmp_path))
    trainer = quiet_trainer(Terminate(), saver, max_steps=4, accumulate_grad_batches=2)
    with pytest.raises(SIGTERMException):
        trainer.fit(TinyStage(), datamodule=TinyData())
    assert names(tmp_path) == ["step-00000002.ckpt"]
    assert signal.getsignal(signal.SIGTERM) == before


class Places(Callback):
    """Notes epoch, place in the epoch and content of every batch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append((trainer.current_epoch, batch_idx, int(batch["input_ids"][2])))


def test_epochs_that_become_shorter_are_gone_on_with_at_every_step(tmp_path: Path) -> None:
    def places(saver: StepCheckpoint, checkpoint: Path | None) -> list[tuple[int, int, int]]:
        noted = Places()
        trainer = quiet_trainer(noted, saver, max_steps=8, max_epochs=-1)
        loader = EpochLoader(
            lambda epoch: [10 * epoch + index for index in range(max(3 - epoch, 1))],
            lambda index: {"input_ids": torch.tensor([1, 2, index, 0])},
        )
        trainer.fit(TinyStage(), loader, ckpt_path=checkpoint)
        return noted.seen

    whole = places(StepCheckpoint(str(tmp_path / "whole"), every_n_steps=1, keep=None), None)
    assert [epoch for epoch, *_ in whole] == [0, 0, 0, 1, 1, 2, 3, 4]
    for step, path in enumerate(checkpoints(tmp_path / "whole")[:-1], start=1):
        assert places(StepCheckpoint(str(tmp_path / "again")), path) == whole[step:]


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt"
    StreamedCheckpointIO().save_checkpoint({"step": 1}, file)
    with pytest.raises((AttributeError, PicklingError)):
        StreamedCheckpointIO().save_checkpoint({"step": 2, "wrong": lambda: None}, file)
    assert torch.load(file) == {"step": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_whatever_bit_of_a_checkpoint_is_another_nothing_but_damage_is_told(tmp_path: Path) -> None:
    """Of the archive's directory too, where reading raises errors of many kinds."""
    path, chance = tmp_path / "step-00000001.ckpt", random.Random(1)
    torch.save({"state_dict": {"weight": torch.randn(30)}, "epoch": 1}, path)
    whole, seen = path.read_bytes(), 0
    for place in chance.sample(range(len(whole)), 500):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :]
        )
        seen += damage(path) is not None
    assert seen > 100


def test_a_folder_whose_list_of_sizes_is_damaged_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "step-00000001.ckpt"
    folder.mkdir()
    assert damage(folder) == "it is empty"
    (folder / "part").write_text("whole")
    keep_sizes(folder)
    assert damage(folder) is None
    (folder / "sizes.json").write_text('{"part": ')
    assert damage(folder) == "sizes.json is cut off"
