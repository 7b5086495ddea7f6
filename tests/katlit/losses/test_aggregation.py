"""Each form of the loss against a loop over tokens, whole and in parts."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from katlit.losses.aggregation import Aggregation, Segments

TOKENS = 40
ROLLOUTS = 7
FORMS = [
    Aggregation(unit, streams, weight, 9)
    for unit, streams, weight in itertools.product(
        ("token", "sequence", "constant"), ("joint", "separate"), (1.0, 0.3)
    )
]


def random_tokens() -> tuple[Tensor, Tensor, Segments]:
    """Values, which of them are trained, and their segments; a rollout has no judge, one no trained token."""
    generator = torch.Generator().manual_seed(4)
    values = torch.randn(TOKENS, generator=generator, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(-1, ROLLOUTS, (TOKENS,), generator=generator)
    judge = (torch.rand(TOKENS, generator=generator) < 0.3) & (ids != 2)
    trained = (torch.rand(TOKENS, generator=generator) < 0.8) & (ids >= 0) & (ids != 5)
    return values, trained, Segments(judge, ids, ROLLOUTS)


def by_hand(form: Aggregation, values: Tensor, trained: Tensor, segments: Segments) -> Tensor:
    """One stream, one rollout, one token after the other."""
    streams: list[Any] = [(True, False)] if form.streams == "joint" else [(True,), (False,)]
    total = torch.zeros((), dtype=torch.float64)
    for stream in streams:
        rollouts = []
        for rollout in range(ROLLOUTS):
            own = [
                value * (form.judge_weight if is_judge else 1)
                for value, used, is_judge, owner in zip(
                    values, trained, segments.judge.tolist(), segments.rollout_ids.tolist(), strict=True
                )
                if used and owner == rollout and is_judge in stream
            ]
            if own:
                rollouts.append(torch.stack(own))
        if form.unit == "token":
            total = total + torch.cat(rollouts).mean()
        elif form.unit == "sequence":
            total = total + torch.stack([own.mean() for own in rollouts]).mean()
        else:
            total = total + torch.stack([own.sum() / form.length for own in rollouts]).mean()
    return total


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_loop_over_tokens(form: Aggregation) -> None:
    values, trained, segments = random_tokens()
    numbers = form.numbers(
        trained[None], Segments(segments.judge[None], segments.rollout_ids[None], ROLLOUTS)
    )
    used = trained.nonzero()[:, 0]
    ours = form.mean(values[used], segments.of(used), numbers)
    truth = by_hand(form, values, trained, segments)
    torch.testing.assert_close(ours, truth)
    gradients = [torch.autograd.grad(loss, values)[0] for loss in (ours, truth)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_parts_of_whole_rollouts_add_up(form: Aggregation) -> None:
    values, trained, segments = random_tokens()
    part_of = segments.rollout_ids % 3
    masks = [trained & (part_of == part) for part in range(3)]
    numbers = [form.numbers(mask, segments) for mask in masks]
    totals = {name: sum(part[name] for part in numbers) for name in numbers[0]}
    used = [mask.nonzero()[:, 0] for mask in masks]
    parts = [form.mean(values[own], segments.of(own), totals) for own in used]
    torch.testing.assert_close(sum(parts), by_hand(form, values, trained, segments))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_of_no_tokens_it_is_zero_with_a_graph(form: Aggregation) -> None:
    values = torch.zeros(0, requires_grad=True)
    nothing = Segments(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), 0)
    numbers = form.numbers(torch.zeros(0, dtype=torch.bool), nothing)
    assert all(number == 0 for number in numbers.values())
    loss = form.mean(values, nothing, dict.fromkeys(numbers, torch.ones(())))
    loss.backward()
    assert loss == 0


def test_one_mean_over_all_tokens_is_the_plain_sum_over_their_number_to_the_bit() -> None:
    values = torch.randn(1001, generator=torch.Generator().manual_seed(1))
    segments = Segments(values > 0, torch.zeros(1001, dtype=torch.int64), 1)
    loss = Aggregation().mean(values, segments, {"units": torch.tensor(1001 / 3)})
    assert loss == values.sum() / torch.tensor(1001 / 3)
