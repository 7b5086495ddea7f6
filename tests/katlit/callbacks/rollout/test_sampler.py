"""Rollouts in a real training loop: what the step sees, whether the engine follows, what stops it."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from tinymodel import tiny_backbone
from tinyrollouts import BATCHES, SHAPE, Finishing, FirstLetter, Whole, prompt, train
from torch import Tensor

from katlit.advantages import Process
from katlit.callbacks.rollout.checks import check_settings
from katlit.callbacks.rollout.sampler import RolloutSampler
from katlit.callbacks.samples import COLUMNS
from katlit.datamodules.loader import EpochLoader
from katlit.engines import HFEngine, SamplingParameters, VLLMEngine, VLLMOptions
from katlit.errors import UserError
from katlit.modules import StepSRPO
from katlit.rewards import CompositeReward, Reward, Sample, Verdict

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class FinishingVLLM(Whole, VLLMEngine): ...


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["hf", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_engine_and_trainer_agree_after_every_update(tmp_path: Path, kind: str, tied: bool) -> None:
    options = VLLMOptions(max_num_seqs=32, kv_cache_gib=0.1)
    engine = Finishing() if kind == "hf" else FinishingVLLM(max_context=125, options=options)
    watch, _, _ = train(tmp_path, engine, BATCHES, tied)
    assert len(watch.batches) == 4
    for batch, truth, logged in zip(watch.batches, watch.truth, watch.logged, strict=True):
        sampled = batch["loss_mask"]
        gap = (truth - batch["rollout_log_probs"])[sampled].abs()
        assert gap.max() < 2e-4
        assert logged["rollout/logprob_gap"] < 1e-4
        assert logged["rollout/logprob_gap"] > 0
        assert logged["train/judge_advantage_std"] + logged["train/answer_advantage_std"] > 0
        assert "rollout/tokens_per_pass" not in logged


def test_the_step_sees_every_rollout_whole(tmp_path: Path) -> None:
    watch, data, _ = train(tmp_path, Finishing(), BATCHES[:1], samples=8, forced_share=0.5)
    (batch,) = watch.batches
    assert batch["group_ids"].tolist() == [0] * 8 + [1] * 8
    assert batch["forced"].tolist() == ([True] * 4 + [False] * 4) * 2
    assert batch["modes"][batch["forced"]].tolist() == [1, 1, 0, 0] * 2
    assert data.recorded == [(2, batch["group_ids"].tolist(), batch["correct"].tolist())]
    stage_ids = batch["rollout_ids"]
    for index, sample in enumerate(batch["samples"]):
        own = stage_ids == index
        positions = batch["position_ids"][own]
        assert positions.tolist() == list(range(len(positions)))  # one document, in order
        sampled = batch["loss_mask"][own]
        start = int(sampled.long().argmax())
        assert sampled.tolist() == [False] * start + [True] * (len(sampled) - start)
        assert 1 <= len(sampled) - start <= 12
        judge = batch["judge_mask"][own]
        assert not (judge & ~sampled).any()
        assert judge.any() != batch["forced"][index]
        assert batch["rollout_log_probs"][own][~sampled].abs().sum() == 0
        assert set(sample) >= set(COLUMNS)
        assert sample["rewards"].startswith("accuracy ")
        torch.testing.assert_close(sample["reward"], batch["rewards"][index].item())
        assert [sample["judge_advantage"], sample["answer_advantage"]] == batch["advantages"][index].tolist()
    assert not batch["loss_mask"][stage_ids == -1].any()
    logged = watch.logged[0]
    assert all(logged[f"rollout/{part}_seconds"] > 0 for part in ("sync", "sample", "reward", "layout"))
    assert logged["rollout/reward"] == pytest.approx(batch["rewards"].mean().item())
    assert logged["rollout/think_rate"] == pytest.approx(
        (batch["modes"][~batch["forced"]] == 1).float().mean().item()
    )


class Counting(Finishing):
    """An engine that counts how often it samples and takes weights."""

    def __init__(self) -> None:
        super().__init__(max_context=128)
        self.requests: list[int] = []
        self.syncs = 0

    def generate(self, prompts: Any, *arguments: Any) -> Any:
        self.requests.append(len(prompts))
        return super().generate(prompts, *arguments)

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        self.syncs += 1
        super().sync_weights(named_weights)


def test_the_micro_batches_of_a_step_are_sampled_together(tmp_path: Path) -> None:
    engine = Counting()
    watch, data, _ = train(tmp_path, engine, BATCHES, parts=2, samples=4)
    assert engine.requests == [16, 16]  # two micro-batches of two prompts, four rollouts each
    assert engine.syncs == 1
    everyone = [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert [batch["group_ids"].tolist() for batch in watch.batches] == [everyone] * 4
    assert [(number, groups) for number, groups, _ in data.recorded] == [(4, everyone)] * 2
    shown = [[sample["question"].count("ab") for sample in batch["samples"]] for batch in watch.batches]
    assert shown == [([1] * 4 + [2] * 4) * 2] * 4
    for step in (watch.batches[:2], watch.batches[2:]):  # each rollout in one of the two, as it is divided
        own = [set(batch["rollout_ids"].flatten().tolist()) - {-1} for batch in step]
        assert own[0] | own[1] == set(range(16))
        assert not own[0] & own[1]
    for batch, truth in zip(watch.batches, watch.truth, strict=True):
        assert (truth - batch["rollout_log_probs"])[batch["loss_mask"]].abs().max() < 2e-4
    assert all(logged["rollout/logprob_gap"] < 1e-4 for logged in watch.logged[1::2])


def test_the_same_seed_gives_the_same_rollouts(tmp_path: Path) -> None:
    one, two, other = (
        train(tmp_path / str(run), HFEngine(), BATCHES[:2], seed=seed)[0].batches
        for run, seed in enumerate((1, 1, 2))
    )
    for first, second in zip(one, two, strict=True):
        assert torch.equal(first["input_ids"], second["input_ids"])
    assert not torch.equal(one[0]["input_ids"], other[0]["input_ids"])


class Deaf(Finishing):
    """An engine that does not take the new weights, and tells when it was closed."""

    closed = 0

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        list(named_weights)

    def close(self) -> None:
        super().close()
        self.closed += 1


def test_a_broken_sync_stops_the_run_before_the_next_update(tmp_path: Path) -> None:
    engine = Deaf()
    with pytest.raises(
        UserError, match=r"weight sync: at step 1 the engine has other values than the trainer of"
    ):
        train(tmp_path, engine, BATCHES)
    assert engine.closed
    assert engine._model is None


def test_too_long_prompts_are_skipped_and_counted(tmp_path: Path) -> None:
    batches = [[prompt(0), prompt(1, 60)], [prompt(2, 60)], [prompt(3)]]
    watch, data, _ = train(tmp_path, HFEngine(max_context=128), batches, samples=4)
    assert [batch["group_ids"].tolist() for batch in watch.batches] == [[0] * 4, [], [0] * 4]
    assert [logged["rollout/skipped_prompts"] for logged in watch.logged] == [1, 1, 0]
    assert watch.logged[1]["train/loss"] == 0
    assert [groups for _, groups, _ in data.recorded] == [[0] * 4, [], [0] * 4]
    assert all(torch.isfinite(torch.tensor(list(logged.values()))).all() for logged in watch.logged)


def test_two_temperatures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sampling.temperature: 0.7, but model.temperature is 1.0"):
        train(tmp_path, HFEngine(), BATCHES, temperature=1.0)


@pytest.mark.parametrize(("name", "value"), [("top_p", 0.97), ("top_k", 50)])
def test_filters_of_the_sampler_are_refused(name: str, value: float) -> None:
    stage: Any = SimpleNamespace(temperature=1.0)
    with pytest.raises(UserError, match=rf"sampling.{name}: {value}.*; training needs 1.0 and 0"):
        check_settings(SimpleNamespace(), stage, SamplingParameters(**{name: value}), 0, "keep")  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"samples": 1}, {"forced_share": 1.5}])
def test_impossible_shares_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="at least 2 samples and a share from 0 to 1"):
        RolloutSampler(HFEngine(), **settings)


def test_validation_prompts_are_answered_once_by_the_present_weights(tmp_path: Path) -> None:
    engine = Counting()
    held = [[prompt(10), prompt(11, 60)], [prompt(12, 2)]]  # the second does not fit
    _, _, sampler = train(tmp_path, engine, BATCHES, samples=4, validation=held)
    assert engine.requests == [8] * 4 + [1, 1]
    assert engine.syncs == 4
    logged = sampler._policy.compute()
    assert sampler._policy.number == 2
    assert 1 <= logged["mean_tokens"] <= 12
    assert logged["accuracy"] in (0, 0.5, 1)


def test_validate_starts_the_engine(tmp_path: Path) -> None:
    stage = StepSRPO(tiny_backbone(tmp_path, SHAPE))
    reward = CompositeReward({"accuracy": FirstLetter()}, {"accuracy": 1.0})
    sampler = RolloutSampler(Counting(), reward, SamplingParameters(max_tokens=12), row_tokens=96)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[sampler], default_root_dir=tmp_path,
    )  # fmt: skip
    loader = EpochLoader(lambda _: BATCHES, lambda prompts: {"prompts": prompts})
    (results,) = trainer.validate(stage, loader, verbose=False)
    assert sampler.engine.requests == [2] * 4
    assert set(results) >= {"val/accuracy", "val/mean_tokens", "val/think_rate", "val/format_valid"}


class Picky(FirstLetter):
    """Raises on every fourth response, of which it then knows the letters; others are too slow for it."""

    def __init__(self) -> None:
        self.closed = 0

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        letters = [ord((sample.parsed.judge or "~")[0]) % 4 for sample in samples]
        if 0 in letters:
            raise ZeroDivisionError("a fourth")
        late = Verdict(None, "late", timed_out=True)
        return [
            late if n == 1 else verdict for n, verdict in zip(letters, super().__call__(samples), strict=True)
        ]

    def close(self) -> None:
        self.closed += 1


def test_validation_data_without_prompts_are_refused() -> None:
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace())
    with pytest.raises(UserError, match="gives batches without prompts"):
        RolloutSampler(HFEngine()).on_validation_batch_start(trainer, trainer, {}, 0)  # type: ignore[typeddict-item]


def test_unjudged_rollouts_are_left_out_and_counted(tmp_path: Path) -> None:
    reward = Picky()
    settings = {"samples": 8, "reward": CompositeReward({"accuracy": reward}, {"accuracy": 1.0})}
    watch, _, _ = train(tmp_path, Finishing(), BATCHES[:1], max_unjudged_share=1.0, **settings)
    (batch,), (logged,) = watch.batches, watch.logged
    kept = len(batch["rewards"])
    assert 0 < kept < 16
    assert logged["rollout/unjudged"] == pytest.approx(1 - kept / 16)
    assert logged["rollout/unjudged_errors"] > 0
    assert logged["rollout/unjudged_timeouts"] > 0
    assert (
        logged["rollout/unjudged_errors"] + logged["rollout/unjudged_timeouts"] == logged["rollout/unjudged"]
    )
    assert logged["rollout/reward"] == pytest.approx(batch["rewards"].mean().item())
    assert batch["rewards"].isfinite().all()
    assert [row["record"]["prompt_id"] in ("p0", "p1") for row in batch["unjudged"]] == [True] * (16 - kept)
    assert batch["rollout_ids"].max() == kept - 1
    assert reward.closed
    cause = "late|Picky: ZeroDivisionError: a fourth"
    with pytest.raises(
        UserError, match=rf"rollouts of step 0 .* max_unjudged_share 0.1; the first: ({cause})"
    ):
        train(tmp_path / "strict", Finishing(), BATCHES[:1], **settings)


class Sometimes(Reward):
    """All 1 in the first round, of four a prompt; later every second one of the second prompt's."""

    def __init__(self) -> None:
        self.seen = 0  # of the second prompt's

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        return [Verdict(self._value() if sample.prompt["id"] == "p1" else 1.0, "") for sample in samples]

    def _value(self) -> float:
        self.seen += 1
        return float(self.seen <= 4 or self.seen % 2)


@pytest.mark.parametrize(
    ("on_flat_groups", "requests", "trained"),
    [("keep", [8], range(8)), ("skip", [8], []), ("resample", [8, 8, 4], range(4, 8))],
)
def test_flat_groups(tmp_path: Path, on_flat_groups: Any, requests: list[int], trained: Any) -> None:
    engine = Counting()
    reward = CompositeReward({"accuracy": Sometimes()}, {"accuracy": 1.0})
    watch, data, _ = train(
        tmp_path, engine, BATCHES[:1], reward=reward, samples=4, on_flat_groups=on_flat_groups
    )
    assert engine.requests == requests
    (batch,), (logged,) = watch.batches, watch.logged
    assert set(batch["rollout_ids"].flatten().tolist()) - {-1} == set(trained)
    assert batch["group_ids"].tolist() == [0] * 4 + [1] * 4  # what was left out is known all the same
    assert len(data.recorded[0][1]) == 8
    assert logged["rollout/flat_groups"] == 1
    assert logged["rollout/left_out_groups"] == {"keep": 0, "skip": 1, "resample": 0.5}[on_flat_groups]
    assert logged["rollout/accuracy"] == 1  # as the policy answered at first
    assert (logged["train/loss"] != 0) == (on_flat_groups == "resample")


def test_groups_that_the_bias_learns_from_are_not_left_out() -> None:
    stage = SimpleNamespace(estimator=Process(bias_when_solved=True))
    with pytest.raises(UserError, match=r"model.estimator \(Process\) learns.*init_args.bias_when_solved"):
        check_settings(SimpleNamespace(), stage, SamplingParameters(), 0, "skip")  # type: ignore[arg-type]
