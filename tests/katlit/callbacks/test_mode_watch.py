"""Mode statistics against loops over plain lists, over ranks too, and when a collapse is warned of."""

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tinyrollouts import BATCHES, Finishing, Watch, train

from katlit.advantages import GRPO, AdvantageEstimator, HiPO, Process
from katlit.callbacks.mode_watch import ModeWatch, added, advice, mode_counts, mode_rates, think_rates
from katlit.errors import UserError

Row = tuple[int, int, int, bool]  # mode, group, difficulty, forced


def batch_of(rows: list[Row]) -> dict[str, Any]:
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    names = ("modes", "group_ids", "difficulties", "forced")
    batch = {name: torch.tensor(list(column)) for name, column in zip(names, columns, strict=True)}
    return batch | {"forced": batch["forced"].bool()}


def random_rows(seed: int, groups: int) -> list[Row]:
    chance = random.Random(seed)
    return [
        (chance.choice([1, 1, 0, -1] if group % 2 else [0, 0, 0, -1]), group, 1 + group % 3, index < 2)
        for group in range(groups)
        for index in range(6)
    ]


def by_hand(ranks: list[list[Row]]) -> tuple[dict[str, float], dict[int, float]]:
    free = [(rank, *row) for rank, rows in enumerate(ranks) for row in rows if not row[3]]
    rates, thinking = {}, {}
    for difficulty in {row[3] for row in free}:
        own = [row[1] == 1 for row in free if row[3] == difficulty]
        thinking[difficulty] = sum(own) / len(own)
    chosen: dict[Any, set[int]] = {}
    for rank, mode, group, *_ in free:
        if mode >= 0:
            chosen.setdefault((rank, group), set()).add(mode)
    rates["one_mode_groups"] = sum(len(modes) == 1 for modes in chosen.values()) / max(len(chosen), 1)
    on = [mode for _, mode, *_ in free if mode >= 0]
    shares = [on.count(mode) / len(on) for mode in (0, 1)] if on else []
    rates["entropy"] = -sum(share * math.log(share) for share in shares if share)
    return rates, thinking


@pytest.mark.parametrize(
    "ranks",
    [
        [random_rows(1, 9)],
        [random_rows(2, 2), random_rows(3, 5)],  # the first has seen fewer difficulties
        [random_rows(4, 1), []],
        [[]],
        [[(-1, 0, 1, False)], [(1, 0, 4, True)]],  # no mode, or none of its own
    ],
)
def test_rates_are_those_of_a_loop_over_the_rollouts_of_all_ranks(ranks: list[list[Row]]) -> None:
    counts = added(mode_counts(batch_of(rows)) for rows in ranks)
    rates, thinking = by_hand(ranks)
    assert mode_rates(counts) == pytest.approx(rates)
    assert think_rates(counts) == pytest.approx(thinking)


def steps(
    watch: ModeWatch, rows: list[list[Row]], every: int = 1, rank: int = 0
) -> list[tuple[int, dict[str, float]]]:
    """Go through optimizer steps of two micro-batches; what the tracker got."""
    logged: dict[str, float] = {}
    tracked: list[tuple[int, dict[str, float]]] = []
    module = SimpleNamespace(
        log=lambda name, value, **_: logged.update({name: value}), estimator=Process(bias_when_solved=True)
    )
    tracker = SimpleNamespace(log_metrics=lambda metrics, step: tracked.append((step, metrics)))
    trainer = SimpleNamespace(
        global_step=watch._last_step, log_every_n_steps=every, loggers=[tracker], is_global_zero=rank == 0
    )
    for step in rows:
        watch.on_train_batch_end(trainer, module, None, batch_of(step), 0)  # within an optimizer step
        trainer.global_step += 1
        watch.on_train_batch_end(trainer, module, None, batch_of(step), 1)
    assert set(logged) == {"modes/entropy", "modes/one_mode_groups"}
    return tracked


THINKS: list[Row] = [(1, 0, 1, False)] * 8 + [(0, 0, 1, True)] * 8  # the other mode only where it is forced
BY_PROMPT: list[Row] = [(1, 0, 2, False)] * 8 + [(0, 1, 1, False)] * 8
NEITHER: list[Row] = [(-1, 0, 1, False)] * 8


def test_a_collapse_is_warned_of_once_with_what_to_turn(caplog: pytest.LogCaptureFixture) -> None:
    watch = ModeWatch(patience=3)
    steps(watch, [THINKS] * 2 + [BY_PROMPT] + [THINKS] * 2)
    assert not caplog.records
    resumed = ModeWatch(patience=3)
    resumed.load_state_dict(watch.state_dict())
    steps(resumed, [NEITHER, *[THINKS] * 5])
    (record,) = caplog.records
    assert "100% of the free rollouts think, for 3 steps" in record.message
    places = [
        record.message.index(word)
        for word in ("forced_share", "raise model.init_args.estimator.init_args.bias", "judge_weight")
    ]
    assert places == sorted(places)
    steps(ModeWatch(patience=1), [[(0, 0, 1, False)]])
    assert "lower model.init_args.estimator.init_args.bias (and set" in caplog.records[-1].message
    steps(ModeWatch(patience=1), [[(0, 0, 1, False)]], rank=1)
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("estimator", "thinks", "named"), [
    (Process(bias_when_solved=True), True, "; raise model.init_args.estimator.init_args.bias; "),
    (Process(bias_when_solved=True), False, "(and set model.init_args.estimator.init_args.bias_when"),
    (Process(), False, "; lower model.init_args.estimator.init_args.bias; "),
    (HiPO(), False, "; lower model.init_args.estimator.init_args.bias; "),
    (GRPO(), True, "; set model.init_args.estimator to one with a bias"),
    (GRPO(), False, "valued; lower model.init_args.aggregation.judge_weight"),
])  # fmt: skip
def test_only_what_the_estimator_has_is_to_be_turned(
    estimator: AdvantageEstimator, thinks: bool, named: str
) -> None:
    assert named in advice(float(thinks), 3, estimator)


def test_a_policy_that_decides_by_the_prompt_is_not_collapsed(caplog: pytest.LogCaptureFixture) -> None:
    steps(ModeWatch(patience=1), [BY_PROMPT] * 3)
    assert not caplog.records


def test_a_step_without_a_difficulty_logs_none_of_it() -> None:
    first, second = "modes/think_rate/difficulty-1", "modes/think_rate/difficulty-2"
    rows = [BY_PROMPT, THINKS, BY_PROMPT]
    both = {first: 0, second: 1}
    assert steps(ModeWatch(), rows) == [(0, both), (1, {first: 1}), (2, both)]
    assert steps(ModeWatch(), rows, every=2) == [(1, {first: 1})]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_it_is_logged_beside_the_rollouts(tmp_path: Path) -> None:
    after = Watch()
    train(tmp_path, Finishing(), BATCHES[:1], callbacks=[ModeWatch(), after])
    (batch,), (logged,) = after.batches, after.logged
    assert batch["difficulties"].tolist() == [1] * 16
    for name, value in mode_rates(mode_counts(batch)).items():
        assert logged[f"modes/{name}"] == pytest.approx(value)


@pytest.mark.parametrize("settings", [{"min_entropy": 0.8}, {"patience": 0}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"ModeWatch: .* give an entropy from 0 to"):
        ModeWatch(**settings)
