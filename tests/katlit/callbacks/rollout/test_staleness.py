"""Rollouts sampled one step ahead: beside the training, of the weights before it, kept by checkpoints."""

import copy
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tinyrollouts import BATCHES, Finishing, Watch, log_probs_of, prompt, train
from torch import Tensor

from katlit.callbacks.checkpoint import StepCheckpoint
from katlit.callbacks.rollout.sampler import RolloutSampler
from katlit.engines import HFEngine, SamplingParameters, VLLMEngine
from katlit.engines.base import Completion
from katlit.errors import UserError
from katlit.model.backbone import Backbone

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
SAVING = {"enable_checkpointing": True, "max_epochs": -1, "max_steps": 4}
PATIENCE = 60.0  # seconds until a test fails that would wait for ever


class Beside(Finishing):
    """Samples beside the training, each time until that has gone through a backward pass."""

    samples_beside_training: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(max_context=128)
        self.backwards = threading.Semaphore(0)
        self.requests: list[tuple[str, int]] = []
        self.syncs = 0
        self.samples = threading.Lock()

    def generate(self, prompts: Any, *arguments: Any) -> list[Completion]:
        beside = threading.current_thread() is not threading.main_thread()
        self.requests.append(("beside" if beside else "before", len(prompts)))
        assert self.samples.acquire(blocking=False), "another call samples"
        try:
            if beside:
                self.wait()
            return super().generate(prompts, *arguments)
        finally:
            self.samples.release()

    def close(self) -> None:
        self.backwards.release()  # a run that stops has no other to wait for
        super().close()

    def wait(self) -> None:
        assert self.backwards.acquire(timeout=PATIENCE), "the trainer waits for what it should train beside"

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        assert not self.samples.locked(), "weights are sent while the engine samples"
        self.syncs += 1
        super().sync_weights(named_weights)


class Beats(Callback):
    """Tells the engine of each backward pass, and keeps each step's weights for the step after it."""

    def __init__(self, engine: Beside) -> None:
        self.engine = engine
        self.before: Backbone | None = None
        self.older: list[Tensor | None] = []  # log-probabilities under the weights of the step before

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        older = self.before and log_probs_of(self.before, batch, pl_module.temperature)
        self.older.append(older)
        self.before = copy.deepcopy(pl_module.backbone)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self.engine.backwards.release()


def run(directory: Path, engine: Beside | None = None, **settings: Any) -> tuple[Watch, Beats, Beside]:
    engine = engine or Beside()
    callbacks = [beats := Beats(engine), *settings.pop("callbacks", [])]
    settings = {"samples": 4, "batches": BATCHES, "max_logprob_gap": 1e-4} | settings
    watch, *_ = train(directory, engine, max_staleness=1, callbacks=callbacks, **settings)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sampling-ahead")]
    return watch, beats, engine


def column(watch: Watch, name: str) -> list[float]:
    return [logged[name] for logged in watch.logged]


def test_each_step_trains_on_rollouts_of_the_weights_before_the_last_update(tmp_path: Path) -> None:
    watch, beats, engine = run(tmp_path)
    assert column(watch, "rollout/staleness") == [0, 1, 1, 1]
    # 8 rollouts when due, then all others beside a step; 8 probes of the present weights before each of these
    assert engine.requests == [
        ("before", 8),
        ("beside", 8),
        *[("before", 8), ("beside", 8)] * 2,
        ("before", 8),
    ]
    assert engine.syncs == 3
    for batch, present, older in zip(watch.batches[1:], watch.truth[1:], beats.older[1:], strict=True):
        sampled = batch["loss_mask"]
        assert (older - batch["rollout_log_probs"])[sampled].abs().max() < 2e-4
        assert (present - batch["rollout_log_probs"])[sampled].abs().mean() > 1e-2
    assert all(seconds > 0 for seconds in column(watch, "rollout/hidden_seconds")[1:])
    assert column(watch, "rollout/hidden_seconds")[0] == 0


def test_importance_weights_are_those_of_the_present_policy_over_the_older_one(tmp_path: Path) -> None:
    watch, *_ = run(tmp_path)
    for batch, present, logged in zip(watch.batches, watch.truth, watch.logged, strict=True):
        forced = batch["forced"][batch["rollout_ids"]] & batch["judge_mask"]
        trained = batch["loss_mask"] & ~forced
        weights = (present - batch["rollout_log_probs"])[trained].exp().clamp(max=2.0)
        assert logged["train/importance_weight"] == pytest.approx(float(weights.mean()), rel=1e-3)
        share = weights.sum() ** 2 / (len(weights) * weights.square().sum())
        assert logged["train/effective_sample_share"] == pytest.approx(float(share), rel=1e-3)
        assert logged["train/ratio"] == 1


def test_the_gap_is_that_of_probes_which_carry_no_loss(tmp_path: Path) -> None:
    watch, *_ = run(tmp_path)
    assert "probe_mask" not in watch.batches[0]
    for batch, present, logged in zip(watch.batches[1:], watch.truth[1:], watch.logged[1:], strict=True):
        probed = batch["probe_mask"]
        assert 8 <= probed.sum() <= 8 * 12
        assert not (probed & (batch["loss_mask"] | batch["judge_mask"])).any()
        assert (batch["rollout_ids"][probed] == -1).all()
        gap = (present - batch["rollout_log_probs"])[probed].abs().mean()
        assert 0 < gap < 1e-4
        assert logged["rollout/logprob_gap"] == pytest.approx(float(gap), rel=0.1)


class Deaf(Beside):
    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        list(named_weights)


class Forgetful(Beside):
    """Takes all new weights but one matrix."""

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        kept = self._model.state_dict()
        name = "model.layers.1.mlp.down_proj.weight"
        super().sync_weights((n, kept[n].clone() if n == name else weight) for n, weight in named_weights)


@pytest.mark.parametrize("kind", [Deaf, Forgetful])
def test_a_broken_sync_stops_the_run_before_the_next_update(tmp_path: Path, kind: type[Beside]) -> None:
    with pytest.raises(
        UserError, match=r"weight sync: at step 1 the engine has other values than the trainer of"
    ):
        run(tmp_path, kind())


def test_the_micro_batches_of_a_step_are_sampled_together(tmp_path: Path) -> None:
    watch, _, engine = run(tmp_path, parts=2)
    assert engine.requests == [("before", 16), ("beside", 16), ("before", 8)]
    assert column(watch, "rollout/staleness") == [0, 0, 1, 1]
    assert watch.batches[2]["probe_mask"].any()
    assert not watch.batches[3]["probe_mask"].any()
    gap = (
        (watch.truth[2] - watch.batches[2]["rollout_log_probs"])[watch.batches[2]["probe_mask"]].abs().mean()
    )
    assert watch.logged[3]["rollout/logprob_gap"] == pytest.approx(float(gap), rel=0.1)


@pytest.mark.parametrize(
    ("fit", "staleness"),
    [
        ({"max_epochs": 2}, [0, 1, 1, 1, 0, 1, 1, 1]),
        ({"max_epochs": -1, "max_steps": 6}, [0, 1, 1, 1, 0, 1]),
        ({"max_epochs": 2, "limit_train_batches": 3}, [0, 1, 1, 0, 1, 1]),
    ],
)
def test_nothing_is_sampled_that_is_not_trained(tmp_path: Path, fit: Any, staleness: list[int]) -> None:
    watch, _, engine = run(tmp_path, fit=fit)
    assert column(watch, "rollout/staleness") == staleness
    assert [kind for kind, _ in engine.requests].count("beside") == sum(staleness)
    assert len(engine.requests) == len(staleness) + sum(staleness)


def test_validation_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    held = [[prompt(10), prompt(11)]]
    watch, _, engine = run(tmp_path, validation=held, fit={"val_check_interval": 1})
    assert column(watch, "rollout/staleness") == [0, 1, 1, 1]
    assert engine.requests.count(("before", 2)) == 4


class Broken(Beside):
    def wait(self) -> None:
        raise UserError("vLLM server failed again after a restart: it ended")


def test_a_failure_beside_the_training_ends_the_run_with_its_own_line(tmp_path: Path) -> None:
    checkpoint = StepCheckpoint(str(tmp_path / "saved"), every_n_steps=1)
    with pytest.raises(UserError, match="failed again after a restart"):
        run(tmp_path, Broken(), callbacks=[checkpoint], fit=SAVING)
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["step-00000001.ckpt"]


class Hung(Beside):
    """Samples beside the training until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = threading.Event()
        self.ended = False  # by being closed

    def wait(self) -> None:
        self.ended = self.closed.wait(PATIENCE)
        assert self.ended

    def close(self) -> None:
        self.closed.set()
        super().close()

    def start(self, model_directory: Path) -> None:
        super().start(model_directory)
        self.closed.clear()


class Stop(Callback):
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        raise KeyError("elsewhere")


def test_an_exception_elsewhere_leaves_no_thread(tmp_path: Path) -> None:
    engine = Hung()
    with pytest.raises(KeyError, match="elsewhere"):
        run(tmp_path, engine, callbacks=[Stop()])
    assert engine.ended
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sampling-ahead")]


def test_a_resumed_run_trains_on_the_rollouts_that_were_in_flight(tmp_path: Path) -> None:
    def saving(name: str) -> dict[str, Any]:
        checkpoint = StepCheckpoint(str(tmp_path / name), every_n_steps=1, keep=None)
        return {"callbacks": [checkpoint], "fit": SAVING}

    whole, _, engine = run(tmp_path / "whole", **saving("saved"))
    assert [kind for kind, _ in engine.requests].count("beside") == 3
    resumed, _, engine = run(
        tmp_path / "resumed", resumed_from=tmp_path / "saved/step-00000002.ckpt", **saving("again")
    )
    assert [kind for kind, _ in engine.requests] == [
        "before",
        "beside",
        "before",
    ]  # what was kept is not sampled
    assert column(resumed, "rollout/staleness") == [1, 1]
    for ours, theirs in zip(resumed.batches, whole.batches[2:], strict=True):
        assert ours["prompts"] == theirs["prompts"]
        for name in ("input_ids", "loss_mask", "probe_mask", "rollout_log_probs", "advantages", "modes"):
            assert torch.equal(ours[name], theirs[name]), name
    for ours, theirs in zip(resumed.logged, whole.logged[2:], strict=True):
        assert {k: v for k, v in ours.items() if "second" not in k} == {
            k: v for k, v in theirs.items() if "second" not in k
        }


def test_a_checkpoint_without_use_for_its_rollouts_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = StepCheckpoint(str(tmp_path / "saved"), every_n_steps=1, keep=None)
    run(tmp_path, callbacks=[saved], fit=SAVING)
    watch, *_ = train(
        tmp_path, Finishing(), BATCHES, samples=4, callbacks=[StepCheckpoint(str(tmp_path / "b"))],
        fit=SAVING, resumed_from=tmp_path / "saved/step-00000002.ckpt",
    )  # fmt: skip
    assert "rollouts of the next step are not used" in caplog.text
    assert all(logged["rollout/logprob_gap"] < 1e-4 for logged in watch.logged)
    caplog.clear()
    others = [*BATCHES[:2], [prompt(20), prompt(21)], BATCHES[3]]
    watch, *_ = run(
        tmp_path, batches=others, callbacks=[StepCheckpoint(str(tmp_path / "c"))], fit=SAVING,
        resumed_from=tmp_path / "saved/step-00000002.ckpt",
    )  # fmt: skip
    assert "sampled ahead answer other prompts" in caplog.text
    assert column(watch, "rollout/staleness") == [0, 1]


@pytest.mark.parametrize("engine", [HFEngine(), VLLMEngine()])
def test_an_engine_in_the_trainers_process_is_refused(engine: Any) -> None:
    with pytest.raises(
        UserError,
        match=rf"max_staleness: 1, but {type(engine).__name__} samples in the trainer's own .*VLLMServer",
    ):
        RolloutSampler(engine, max_staleness=1)


def test_a_loader_that_does_not_look_ahead_is_refused() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    sampler = RolloutSampler(Beside(), sampling=SamplingParameters(max_tokens=12), max_staleness=1)
    with pytest.raises(UserError, match=r"max_staleness: 1, but a NoneType does not say which batches come"):
        sampler.on_train_start(trainer, torch.nn.Module())  # type: ignore[arg-type]
