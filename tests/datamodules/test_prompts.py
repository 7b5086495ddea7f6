import json
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from katlit.batch import Prompt, RolloutBatch
from katlit.callbacks.rollout.data import measure_epoch
from katlit.datamodules import Curriculum, CurriculumStage, FilePrompts, PromptData
from katlit.datamodules.jsonl import write_rows
from katlit.errors import UserError


@pytest.fixture
def source(tmp_path: Path, sums: list[Prompt]) -> FilePrompts:
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))
    return FilePrompts(str(tmp_path / "prompts.jsonl"))


def ids(batch: RolloutBatch) -> list[str]:
    return [prompt["id"] for prompt in batch["prompts"]]


def scored(batch: RolloutBatch, correct: dict[str, list[bool]]) -> RolloutBatch:
    groups = [index for index, prompt in enumerate(batch["prompts"]) for _ in correct[prompt["id"]]]
    batch["group_ids"] = torch.tensor(groups)
    batch["correct"] = torch.tensor([right for prompt in batch["prompts"] for right in correct[prompt["id"]]])
    return batch


def test_order_changes_by_epoch_and_repeats(source: FilePrompts) -> None:
    def orders(seed: int) -> list[list[str]]:
        data = PromptData(train=source, batch_size=6, seed=seed)
        data.setup("fit")
        loader = data.train_dataloader()
        assert len(loader) == 3  # the last two of twenty prompts make no full batch
        out = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            out.append([name for batch in loader for name in ids(batch)])
        return out

    assert orders(0) == orders(0)
    assert orders(0)[0] != orders(0)[1]
    assert orders(0) != orders(1)


def test_test_prompts_keep_their_order_and_all_of_them(source: FilePrompts, sums: list[Prompt]) -> None:
    data = PromptData(test=source, batch_size=6)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert [len(batch["prompts"]) for batch in batches] == [6, 6, 6, 2]
    assert [name for batch in batches for name in ids(batch)] == [prompt["id"] for prompt in sums]


def test_prompts_to_answer_keep_their_order(source: FilePrompts, sums: list[Prompt]) -> None:
    data = PromptData(predict=source, batch_size=6)
    data.setup("predict")
    assert [name for batch in data.predict_dataloader() for name in ids(batch)] == [p["id"] for p in sums]
    with pytest.raises(UserError, match=r"no predict prompts; set data.init_args.predict"):
        PromptData(test=source).predict_dataloader()


def test_missing_sources(source: FilePrompts) -> None:
    with pytest.raises(UserError, match="no training prompts"):
        PromptData(test=source).setup("fit")
    data = PromptData(train=source)
    data.setup("fit")
    with pytest.raises(UserError, match="no test prompts"):
        data.test_dataloader()


def test_validation_prompts_keep_their_order(source: FilePrompts, sums: list[Prompt]) -> None:
    data = PromptData(train=source, validation=source, batch_size=6)
    data.setup("fit")
    loader = data.val_dataloader()
    loader.set_epoch(3)
    assert [name for batch in loader for name in ids(batch)] == [prompt["id"] for prompt in sums]


def test_a_set_smaller_than_a_batch_is_one_batch(source: FilePrompts) -> None:
    data = PromptData(train=source, batch_size=64)
    data.setup("fit")
    assert [len(batch["prompts"]) for batch in data.train_dataloader()] == [20]


def test_solved_prompts_are_dropped_from_later_epochs(source: FilePrompts, sums: list[Prompt]) -> None:
    data = PromptData(train=source, batch_size=4)
    data.setup("fit")
    outcomes = {prompt["id"]: [True, prompt["id"].startswith(("1", "2"))] for prompt in sums}
    loader = data.train_dataloader()
    for batch in loader:
        data.record_outcomes(scored(batch, outcomes))
    assert data.history_counts()["solved"] == 8
    loader.set_epoch(1)
    assert len(loader) == 3
    assert not any(outcomes[name][1] for batch in loader for name in ids(batch))
    restored = PromptData(train=source, batch_size=4)
    restored.load_state_dict(json.loads(json.dumps(data.state_dict())))
    restored.setup("fit")
    again = restored.train_dataloader()
    again.set_epoch(1)
    assert [ids(batch) for batch in again] == [ids(batch) for batch in loader]


def test_copies_within_a_step_are_warned_of_once(
    source: FilePrompts, caplog: pytest.LogCaptureFixture
) -> None:
    def announced(batch_size: int) -> list[str]:
        data = PromptData(train=source, batch_size=batch_size)
        data.setup("fit")
        data.trainer = Trainer(accelerator="cpu", accumulate_grad_batches=4, logger=False)
        loader = data.train_dataloader()
        for epoch in range(2):
            loader.set_epoch(epoch)
            window = next(iter(loader))["window"]
        return [name for batch in window for name in ids(batch)]

    def warnings() -> list[str]:
        return [record.message for record in caplog.records if record.levelname == "WARNING"]

    assert len(set(announced(5))) == 20
    assert not warnings()
    drawn = announced(16)
    assert len(drawn) == 4 * len(set(drawn)) == 64
    (message,) = warnings()
    assert message.startswith("20 prompts are left to draw, in 1 batches of up to 16, but a step rolls out 4")
    assert "up to 4 times" in message
    assert "Lower data.init_args.batch_size to 5," in message


def test_a_prompt_is_solved_only_if_all_rollouts_of_all_its_copies_were_judged_and_correct(
    source: FilePrompts, sums: list[Prompt]
) -> None:
    data = PromptData(train=source, batch_size=4)
    data.setup("fit")
    copied, judged, unjudged = sums[0], sums[1], sums[2]
    batch: RolloutBatch = {
        "prompts": [copied, judged, unjudged, copied],
        "group_ids": torch.tensor([0, 0, 1, 2, 3]),
        "correct": torch.tensor([True, False, True, True, True]),
        "unjudged": [{"record": {"prompt_id": unjudged["id"]}}] * 7,
    }
    data.record_outcomes(batch)
    assert data.state_dict()["history"]["solved"] == {judged["id"]: 0}
    assert data.state_dict()["history"]["latest"] == {
        copied["id"]: pytest.approx(2 / 3), judged["id"]: 1, unjudged["id"]: 1 / 8,
    }  # fmt: skip


def test_without_history_nothing_is_dropped(source: FilePrompts, sums: list[Prompt]) -> None:
    data = PromptData(train=source, batch_size=4, history=False)
    data.setup("fit")
    for batch in data.train_dataloader():
        data.record_outcomes(scored(batch, {prompt["id"]: [True] for prompt in sums}))
    assert data.history_counts() == {}
    assert "history" not in data.state_dict()


def test_a_run_goes_on_with_the_prompts_it_had_and_no_others(
    source: FilePrompts, sums: list[Prompt], tmp_path: Path
) -> None:
    def restored(rows: list[Prompt], *, loaded_first: bool) -> None:
        write_rows(tmp_path / "elsewhere.jsonl", (dict(prompt) for prompt in rows))
        again = PromptData(train=FilePrompts(str(tmp_path / "elsewhere.jsonl")))
        steps = [lambda: again.setup("fit"), lambda: again.load_state_dict(state)]
        for step in steps if loaded_first else reversed(steps):
            step()

    data = PromptData(train=source)
    data.setup("fit")
    state = json.loads(json.dumps(data.state_dict()))
    changed = [*sums[:-1], sums[-1] | {"reference": "0"}]
    for first in (True, False):
        restored(sums, loaded_first=first)
        for rows, words in (
            (sums[1:], "with 20 rows, now there are 19"),
            (changed, "20 rows, and now some "),
        ):
            with pytest.raises(UserError, match=rf"data\.init_args\.train: the checkpoint .* {words}"):
                restored(rows, loaded_first=first)
    del state["train"]  # a checkpoint of before
    restored(changed, loaded_first=True)


class Recorder(LightningModule):
    """Trains one number and writes down which prompts each step saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[str]]] = []

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, ids(batch)))
        return self.weight.square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Score(Callback):
    """Every rollout of a prompt that starts with 1, 2 or 3 is correct."""

    samples_in = frozenset({"fit"})

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        outcomes = {name: [name.startswith(("1", "2", "3"))] * 2 for name in ids(batch)}
        trainer.datamodule.record_outcomes(scored(batch, outcomes))


def fit(root: Path, source: FilePrompts, checkpoint: str | None = None) -> Recorder:
    module = Recorder()
    saver = ModelCheckpoint(root, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = Trainer(
        max_steps=11, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=root, callbacks=[Score(), saver],
    )  # fmt: skip
    trainer.fit(module, PromptData(train=source, batch_size=4), ckpt_path=checkpoint)
    return module


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_lightning_drops_solved_prompts_and_resumes_within_an_epoch(
    source: FilePrompts, tmp_path: Path
) -> None:
    whole = fit(tmp_path / "whole", source).seen
    assert [epoch for epoch, _ in whole] == [0] * 5 + [1] * 2 + [2] * 2 + [3] * 2
    assert all(not name.startswith(("1", "2", "3")) for epoch, names in whole if epoch for name in names)
    for stop in (3, 5, 6):
        checkpoint = tmp_path / "whole" / f"step={stop}.ckpt"
        assert fit(tmp_path / str(stop), source, str(checkpoint)).seen == whole[stop:], stop


class Epochs(Callback):
    """Has Lightning ask anew how long each epoch is, as the rollout callback does."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measure_epoch(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            measure_epoch(trainer)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_curriculum_goes_from_a_small_set_to_a_larger_one_and_resumes(
    source: FilePrompts, sums: list[Prompt], tmp_path: Path
) -> None:
    write_rows(tmp_path / "few.jsonl", (dict(prompt) for prompt in sums[:8]))
    few = FilePrompts(str(tmp_path / "few.jsonl"))

    def seen(name: str, checkpoint: Path | None = None) -> list[tuple[int, list[str]]]:
        module = Recorder()
        curriculum = Curriculum([CurriculumStage(few, epochs=2), CurriculumStage(source)])
        trainer = Trainer(
            max_steps=11, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path / name,
            callbacks=[
                Epochs(), Score(),
                ModelCheckpoint(tmp_path / name, filename="{step}", every_n_train_steps=1, save_top_k=-1),
            ],
        )  # fmt: skip
        trainer.fit(module, PromptData(train=curriculum, batch_size=4), ckpt_path=checkpoint)
        return module.seen

    whole = seen("whole")
    lengths = [[epoch for epoch, _ in whole].count(epoch) for epoch in range(4)]
    assert lengths == [2, 2, 3, 2]  # the small set is solved at once; 12 are left of the larger one, then 8
    early = {prompt["id"] for prompt in sums[:8]}
    assert all(set(names) <= early for epoch, names in whole if epoch < 2)
    for stop in (1, 4, 6):
        assert seen(f"from-{stop}", tmp_path / f"whole/step={stop}.ckpt") == whole[stop:]
