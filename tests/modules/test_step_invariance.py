"""A step's loss, gradient and logged means, however its rollouts fall into rows, micro-batches and ranks."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Trainer
from tinymodel import QWEN, QWEN3_MOE, tiny_backbone
from torch import Tensor

import katlit.modules.step_srpo
import katlit.stage.module
from katlit.advantages import HiPO
from katlit.losses.aggregation import Aggregation
from katlit.modules import StepSRPO
from katlit.packing import best_fit_decreasing, fill_rows

NUMBER = 12
Rows = list[list[int]]  # the rollouts of each row


class Found(NamedTuple):
    """What a step came to."""

    loss: Tensor
    gradients: list[Tensor]
    logged: dict[str, Tensor]


class Made(NamedTuple):
    """Rollouts as the sampler and the rewards leave them."""

    documents: list[dict[str, list[Any]]]
    outcomes: dict[str, Tensor]  # of all of them


@pytest.fixture(scope="module")
def made() -> Made:
    """Twelve rollouts of three prompts; some truncated, some forced, some longer than a row."""
    chance = random.Random(5)
    documents = []
    for index in range(NUMBER):
        prompt, judge, answer = chance.randint(1, 4), chance.randint(1, 3), chance.randint(1, 9)
        forced = index % 4 == 0
        length = prompt + judge + answer
        documents.append(
            {
                "input_ids": [chance.randrange(1, 256) for _ in range(length)],
                "loss_mask": [False] * prompt + [True] * (judge + answer),
                "judge_mask": [False] * prompt + [not forced] * judge + [False] * answer,
                "rollout_log_probs": [0.0] * prompt + [chance.uniform(-7, -3) for _ in range(judge + answer)],
                "rollout_ids": [index] * length,
            }
        )
    index = torch.arange(NUMBER)
    outcomes = {
        "group_ids": index // 4,
        "modes": index % 2,
        "rewards": torch.tensor([chance.choice([0.0, 0.2, 1.0, 1.2]) for _ in range(NUMBER)]),
        "correct": index % 3 == 0,
        "truncated": index == 6,
        "forced": index % 4 == 0,
        "tokens": torch.tensor([sum(document["loss_mask"]) for document in documents]),
    }
    return Made(documents, outcomes)


def micro_batch(made: Made, rows: Rows, padding: int = 0) -> dict[str, Any]:
    """The tokens of some rollouts in rows, the outcomes of all."""

    def filled(name: str, value: Any) -> Tensor:
        columns = [[made.documents[index][name] for index in row] for row in rows]
        return torch.nn.functional.pad(fill_rows(columns, value)[0], (0, padding), value=value)

    positions = fill_rows([[made.documents[index]["input_ids"] for index in row] for row in rows], 0)[1]
    extra = torch.arange(padding).expand(len(rows), padding)
    return made.outcomes | {
        "prompts": [],
        "position_ids": torch.cat([positions, extra], dim=1),
        "input_ids": filled("input_ids", 0),
        "loss_mask": filled("loss_mask", False),
        "judge_mask": filled("judge_mask", False),
        "rollout_log_probs": filled("rollout_log_probs", 0.0),
        "rollout_ids": filled("rollout_ids", -1),
    }


def packed(made: Made, members: Sequence[int], row_tokens: int) -> Rows:
    rows = best_fit_decreasing([len(made.documents[index]["input_ids"]) for index in members], row_tokens)
    return [[members[place] for place in row] for row in rows]


def step(stage: StepSRPO, ranks: list[list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> Found:
    """One step: Lightning's means over the micro-batches of a rank, and over ranks."""
    logged: dict[str, Tensor] = {}

    def log_training(values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            if not name.endswith("_advantage_std"):  # of a micro-batch
                part = value.detach() / (len(parts) * len(ranks))
                logged[name] = logged[name] + part if name in logged else part

    stage.log_training = log_training
    numbers = [[stage._token_numbers(part) for part in parts] for parts in ranks]
    everything = [torch.stack(list(part.values())) for rank in numbers for part in rank]
    total = torch.stack(everything).sum(dim=0)
    monkeypatch.setattr(katlit.stage.module, "add_over_data_ranks", lambda values, mesh: (total, len(ranks)))
    losses = []
    stage.zero_grad()
    for parts in ranks:
        for index, part in enumerate(parts):
            part["window"] = [dict(each) for each in parts] if index == 0 else []
            loss = stage.training_step(part, index) / (len(parts) * len(ranks))
            loss.backward()
            losses.append(loss.detach())
    gradients = [parameter.grad.clone() for parameter in stage.parameters()]
    return Found(torch.stack(losses).sum(), gradients, stage.summarize_training(logged))


SETTINGS = [
    {},
    {"aggregation": Aggregation(streams="separate", judge_weight=0.7)},
    {"aggregation": Aggregation("sequence", "separate")},
    {"aggregation": Aggregation("sequence", "joint")},
    {"aggregation": Aggregation("constant", "separate", length=20)},
    {"aggregation": Aggregation(streams="separate"), "kl_weight": 0.3, "estimator": HiPO()},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=map(str, range(len(SETTINGS))))
def test_the_loss_and_its_gradient_do_not_depend_on_the_layout(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    stage = StepSRPO(tiny_backbone(tmp_path), **settings)
    stage.configure_model()
    stage.double()
    if stage._reference is not None:
        stage._reference.model.double()
        with torch.no_grad():
            for parameter in stage.parameters():
                parameter += 0.02  # from where the reference is
    everyone = list(range(NUMBER))
    mixed = random.Random(2).sample(everyone, NUMBER)

    def parts(members: Sequence[int], number: int, row_tokens: int = 1) -> list[dict[str, Any]]:
        groups = [members[first::number] for first in range(number)]
        return [micro_batch(made, packed(made, group, row_tokens) or [[]]) for group in groups]

    truth = step(stage, [parts(everyone, 1)], monkeypatch)
    layouts = {
        "padding": [[micro_batch(made, [[index] for index in everyone], padding=5)]],
        "packing": [parts(everyone, 1, row_tokens=40)],
        "another order": [parts(mixed, 1, row_tokens=25)],
        "one rollout a micro-batch": [parts(mixed, NUMBER)],
        "accumulation": [parts(everyone, 5, row_tokens=30)],
        "ranks": [parts(mixed[:7], 1), parts(mixed[7:], 1, row_tokens=30)],
        "ranks that accumulate, one with nothing": [parts(mixed, 3, 25), parts([], 3), parts([], 3)],
        "uneven ranks": [parts(mixed[:2], 2), parts(mixed[2:], 2, row_tokens=40)],
    }
    assert truth.loss.abs() > 1e-3
    assert 0.1 < truth.logged["effective_sample_share"] < 0.999
    for name, ranks in layouts.items():
        found = step(stage, ranks, monkeypatch)
        torch.testing.assert_close(found, truth, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("config", [QWEN, QWEN3_MOE], ids=["dense", "experts"])
def test_the_number_of_passes_changes_nothing(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    weight = 0.3 if config is QWEN3_MOE else None
    stage = StepSRPO(tiny_backbone(tmp_path, config, router_loss_weight=weight), kl_weight=0.3)
    stage.configure_model()
    stage.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert stage._reference is not None
    if config is QWEN:  # torch has no product of experts in float64
        stage.double()
        stage._reference.model.double()
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter += 0.02  # from where the reference is
    members = list(range(NUMBER))
    halves = [micro_batch(made, [[index] for index in half]) for half in (members[:7], members[7:])]
    halves[0]["probe_mask"] = halves[0]["loss_mask"] & (halves[0]["rollout_ids"] == 3)
    halves[0]["later"] = [micro_batch(made, [[index] for index in members])]
    length = max(half["input_ids"].shape[1] for half in halves)
    passes: list[int] = []

    def found(rows: int, ranks_need: int = 1) -> tuple[Found, list[Tensor]]:
        parts = [dict(half) for half in halves]
        stage.pass_tokens = rows * length
        passes.clear()
        loads: list[Tensor] = []
        monkeypatch.setattr(stage, "_log_loads", loads.append)
        monkeypatch.setattr(katlit.modules.step_srpo, "most_over_ranks", lambda own: max(own, ranks_need))
        one = step(stage, [parts], monkeypatch)
        extra = [torch.stack(loads).sum(dim=0)] if loads else []
        return one, [*(part["logprob_gap"] for part in parts), parts[0]["later"][0]["old_log_probs"], *extra]

    portion_loss = stage._portion_loss
    monkeypatch.setattr(
        stage, "_portion_loss", lambda part, numbers: passes.append(len(part)) or portion_loss(part, numbers)
    )
    truth = found(rows=100)
    assert len(passes) == 2
    for rows, ranks_need, expected in ((3, 1, 3 + 2), (1, 1, 7 + 5), (100, 3, 6), (1, 9, 18)):
        again = found(rows, ranks_need)
        assert len(passes) == expected
        torch.testing.assert_close(again, truth, atol=1e-6, rtol=1e-5)


def test_rewards_of_a_mode_are_means_over_the_rollouts_of_all_ranks(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = StepSRPO(tiny_backbone(tmp_path))
    stage.configure_model()
    rows = [[index] for index in range(NUMBER)]
    mixed, thinking = micro_batch(made, rows), micro_batch(made, rows)
    thinking["modes"] = torch.ones(NUMBER, dtype=torch.int64)
    logged = step(stage, [[mixed], [thinking]], monkeypatch).logged
    rewards, on = made.outcomes["rewards"], made.outcomes["modes"] == 1
    torch.testing.assert_close(logged["reward_on"], torch.cat([rewards[on], rewards]).mean())
    torch.testing.assert_close(logged["reward_off"], rewards[~on].mean())
