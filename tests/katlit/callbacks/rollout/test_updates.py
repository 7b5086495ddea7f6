"""Several optimizer steps on one batch of rollouts: what each sees, where the ratio starts, what is kept."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from tinyrollouts import BATCHES, Finishing, Outcomes, Watch, log_probs_of, train

from katlit.callbacks.checkpoint import StepCheckpoint
from katlit.errors import UserError
from katlit.model.backbone import Backbone

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
SAVING = {"enable_checkpointing": True, "max_epochs": -1, "max_steps": 4}


class Counting(Finishing):
    def __init__(self) -> None:
        super().__init__(max_context=128)
        self.requests: list[int] = []

    def generate(self, prompts: Any, *arguments: Any) -> Any:
        self.requests.append(len(prompts))
        return super().generate(prompts, *arguments)


class Older(Callback):
    """Keeps the weights that each batch of rollouts was sampled from."""

    def __init__(self) -> None:
        self.weights: list[Backbone] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        new = "later" in batch or not self.weights
        self.weights.append(copy.deepcopy(pl_module.backbone) if new else self.weights[-1])


def run(directory: Path, **settings: Any) -> tuple[Watch, Outcomes, Counting, Older]:
    engine, older = Counting(), Older()
    callbacks = [older, *settings.pop("callbacks", [])]
    settings = {"samples": 4, "batches": BATCHES, "updates": 2} | settings
    watch, data, _ = train(directory, engine, callbacks=callbacks, **settings)
    return watch, data, engine, older


def trained(batch: dict[str, Any]) -> torch.Tensor:
    return batch["loss_mask"] & ~(batch["forced"][batch["rollout_ids"]] & batch["judge_mask"])


def test_the_rollouts_of_a_window_are_divided_among_its_updates_by_tokens(tmp_path: Path) -> None:
    watch, data, engine, _ = run(tmp_path, parts=2)
    assert engine.requests == [32]
    assert [(prompts, len(groups)) for prompts, groups, _ in data.recorded] == [(8, 32)]
    own = [batch["rollout_ids"][batch["rollout_ids"] >= 0] for batch in watch.batches]
    assert sorted(rollout for ids in own for rollout in ids.unique().tolist()) == list(range(32))
    sizes = [len(ids) for ids in own]
    assert max(sizes) - min(sizes) <= max(ids.bincount().max() for ids in own)
    for batch in watch.batches:  # of all rollouts, wherever they are trained on
        assert torch.equal(batch["advantages"], watch.batches[0]["advantages"])
    steps = [logged["rollout/sample_seconds"] for logged in watch.logged[1::2]]
    assert steps[0] > 0 == steps[1]
    assert watch.logged[1]["rollout/reward"] == watch.logged[3]["rollout/reward"]


def test_the_ratio_starts_from_the_weights_before_the_first_update(tmp_path: Path) -> None:
    watch, _, engine, older = run(tmp_path)
    assert engine.requests == [16, 16]
    for index, (batch, weights, logged) in enumerate(
        zip(watch.batches, older.weights, watch.logged, strict=True)
    ):
        assert logged["rollout/logprob_gap"] < 1e-4
        assert ("old_log_probs" in batch) == (index % 2 == 1)
        if index % 2 == 0:
            assert logged["train/ratio"] == 1
            assert logged["train/clip_share"] == 0
            continue
        tokens = trained(batch)
        truth = log_probs_of(weights, batch, 0.7)[tokens]
        old = batch["old_log_probs"]
        torch.testing.assert_close(old[tokens], truth, atol=2e-5, rtol=1e-5)
        assert (old[~tokens] == 0).all()
        ratio = (watch.truth[index][tokens] - truth).exp()
        assert logged["train/ratio"] == pytest.approx(float(ratio.mean()), rel=1e-4)
        assert ratio.std() > 1e-2
        assert logged["train/clip_share"] > 0


def saving(directory: Path) -> dict[str, Any]:
    checkpoint = StepCheckpoint(str(directory), every_n_steps=1, keep=None)
    return {"callbacks": [checkpoint], "fit": SAVING}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watch]:
    """A run that wrote a checkpoint after each of its steps."""
    directory = tmp_path_factory.mktemp("updates")
    watch, *_ = run(directory / "whole", **saving(directory))
    return directory, watch


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_resumed_run_goes_on_with_the_rollouts_that_were_left(
    saved: tuple[Path, Watch], tmp_path: Path, step: int
) -> None:
    directory, whole = saved
    watch, _, engine, _ = run(
        tmp_path / "resumed", resumed_from=directory / f"step-{step:08d}.ckpt", **saving(tmp_path / "again")
    )
    assert engine.requests == [16] * (1 if step < 3 else 0)
    assert len(watch.batches) == 4 - step
    for ours, theirs in zip(watch.batches, whole.batches[step:], strict=True):
        assert ours["prompts"] == theirs["prompts"]
        assert ours["samples"] == theirs["samples"]
        names = [name for name, value in theirs.items() if isinstance(value, torch.Tensor)]
        assert "advantages" in names
        assert all(torch.equal(ours[name], theirs[name]) for name in names)
    for ours, theirs in zip(watch.logged, whole.logged[step:], strict=True):
        assert {k: v for k, v in ours.items() if "second" not in k} == {
            k: v for k, v in theirs.items() if "second" not in k
        }


@pytest.mark.parametrize("settings", [{"updates": 1}, {"updates": 1, "parts": 2}])
def test_what_was_left_is_not_trained_on_otherwise(
    saved: tuple[Path, Watch], tmp_path: Path, settings: dict[str, int]
) -> None:
    with pytest.raises(UserError, match=r"between two updates on the same rollouts|within a step"):
        run(tmp_path, resumed_from=saved[0] / "step-00000001.ckpt", **saving(tmp_path / "again"), **settings)


def test_an_epoch_that_would_end_between_two_updates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.updates: 2, but an epoch has 3 batches, no multiple of 2"):
        run(tmp_path, fit={"limit_train_batches": 3})


class Beside(Counting):
    samples_beside_training = True


def test_updates_of_rollouts_sampled_ahead_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_staleness: 1, but data.updates is 2"):
        train(tmp_path, Beside(), BATCHES, updates=2, max_staleness=1)
