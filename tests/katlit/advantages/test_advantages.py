"""Advantages against groups worked out by hand and against loops written from the formulas of recipe §5.

Over 300 lines because the same few groups are worked out by hand for every estimator and for its terms.
"""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from katlit.advantages import GRPO, AdvantageEstimator, HiPO, Process, Rollouts

ESTIMATORS = [Process, HiPO, GRPO]


def rollouts(
    rewards: list[float],
    modes: list[int],
    groups: list[int] | None = None,
    truncated: list[int] = (),
    forced: list[int] = (),
) -> Rollouts:
    number = len(rewards)
    return Rollouts(
        torch.tensor(rewards, dtype=torch.float32),
        torch.tensor([reward >= 1 for reward in rewards], dtype=torch.bool),
        torch.tensor(groups or [0] * number, dtype=torch.int64),
        torch.tensor(modes, dtype=torch.int64),
        torch.tensor([index in truncated for index in range(number)], dtype=torch.bool),
        torch.tensor([index in forced for index in range(number)], dtype=torch.bool),
        torch.ones(number, dtype=torch.int64),
    )


def close(actual: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=1e-6)


class Group(NamedTuple):
    """One group, and the advantages worked out on paper; ω = 0.1, γ = 0.5."""

    rewards: list[float]
    modes: list[int]
    process: list[tuple[float, float]]  # (judge, answer)
    hipo: list[tuple[float, float]]
    grpo: list[float]  # of both segments
    truncated: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()


T = 1 / math.sqrt(3)  # of one odd reward in four: the others deviate by T, it by 3 T
H = 1 / math.sqrt(2)
ON_ON_OFF_OFF, ZEROS = [1, 1, 0, 0], [(0.0, 0.0)] * 4
GROUPS = {
    # r̄ = 3/4, std = T·3/4; on 1, off 1/2, so j = ±1/4
    "thinking is better": Group(
        [1, 1, 1, 0], ON_ON_OFF_OFF,
        [(1 + T, T), (1 + T, T), (-1 + T, T), (-1 - 3 * T, -3 * T)],
        [(1.5 * T, 0), (1.5 * T, 0), (-0.5 * T, 1), (-2.5 * T, -1)],
        [T, T, T, -3 * T],
    ),
    # r̄ = 1/4; on 0, off 1/2: no bias on top
    "thinking is worse": Group(
        [0, 0, 1, 0], ON_ON_OFF_OFF,
        [(-1 - T, -T), (-1 - T, -T), (1 + 3 * T, 3 * T), (1 - T, -T)],
        [(-1.5 * T, 0), (-1.5 * T, 0), (2.5 * T, 1), (0.5 * T, -1)],
        [-T, -T, 3 * T, -T],
    ),
    # r̄ = std = 1/2; both modes 1/2, the bias makes off 0.55, so j = 0 and 0.05
    "both modes alike": Group(
        [1, 0, 1, 0], ON_ON_OFF_OFF,
        [(0, 1), (-2, -1), (2, 1), (0, -1)],
        [(0.5, 1), (-0.5, -1), (0.6, 1), (-0.4, -1)],
        [1, -1, 1, -1],
    ),
    # on 1, off 15/16: within the bias, so off counts 1.0375; r̄ = 31/32, std = √3/32
    "hardly better is worse": Group(
        [1, 1, 1, 0.875], ON_ON_OFF_OFF,
        [(-1 + T, T), (-1 + T, T), (1 + T, T), (1 - 3 * T, -3 * T)],
        [(1.5 * T, 0), (1.5 * T, 0), (2.7 * T, 1), (0.7 * T, -1)],
        [T, T, T, -3 * T],
    ),
    "one mode only": Group(
        [1, 0, 0, 0], [1, 1, 1, 1],
        [(3 * T, 3 * T), (-T, -T), (-T, -T), (-T, -T)],
        [(1.5 * T, 3 * T), (-0.5 * T, -T), (-0.5 * T, -T), (-0.5 * T, -T)],
        [3 * T, -T, -T, -T],
    ),
    "all right": Group([1.25] * 4, ON_ON_OFF_OFF, ZEROS, ZEROS, [0.0] * 4),
    "all wrong, all in one mode": Group([0.25] * 4, [0, 0, 0, 0], ZEROS, ZEROS, [0.0] * 4),
    # as "thinking is better" mirrored: on 1/2, off 0; the truncated one counts in all means
    "truncated": Group(
        [1, 0, 0, 0], ON_ON_OFF_OFF,
        [(1 + 3 * T, 3 * T), (1 - T, -T), (-1 - T, -T), (0, 0)],
        [(2.5 * T, 1), (0.5 * T, -1), (-1.5 * T, 0), (0, 0)],
        [3 * T, -T, -T, 0],
        truncated=(3,),
    ),
    "forced": Group(
        [1, 1, 1, 0], ON_ON_OFF_OFF,
        [(0, T), (1 + T, T), (0, T), (-1 - 3 * T, -3 * T)],
        [(0, 0), (1.5 * T, 0), (0, 1), (-2.5 * T, -1)],
        [T, T, T, -3 * T],
        forced=(0, 2),
    ),
    "one sample of each mode": Group(
        [1, 0], [1, 0], [(2, 1), (-2, -1)], [(1.5, 0), (-1.5, 0)], [1, -1]
    ),
    # r̄ = std = 1/2; on 1, off 1/3: j = 1/2 and -1/6, whose std is 1/√12
    "one sample of one mode": Group(
        [1, 0, 0, 1], [1, 0, 0, 0],
        [(1 + 3 * T, 1), (-1 - T, -1), (-1 - T, -1), (1 - T, 1)],
        [(1.5, 0), (-5 / 6, -H), (-5 / 6, -H), (1 / 6, 2 * H)],
        [1, -1, -1, 1],
    ),
    "rollouts without a mode": Group(
        [1, 0, 0, 0], [0, 0, -1, -1],
        [(1 + 3 * T, 3 * T), (1 - T, -T), (-1 - T, -T), (-1 - T, -T)],
        [(2.5 * T, 1), (0.5 * T, -1), (-1.5 * T, 0), (-1.5 * T, 0)],
        [3 * T, -T, -T, -T],
    ),
}  # fmt: skip


def advantages_by_hand(group: Group) -> dict[str, list[tuple[float, float]]]:
    plain = [(0.0 if place in group.forced else a, a) for place, a in enumerate(group.grpo)]
    return {"process": group.process, "hipo": group.hipo, "grpo": plain}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_group_by_hand(estimator: type[AdvantageEstimator], name: str) -> None:
    group = GROUPS[name]
    given = rollouts(group.rewards, group.modes, None, list(group.truncated), list(group.forced))
    close(estimator()(given), advantages_by_hand(group)[estimator.__name__.lower()])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_all_groups_by_hand_at_once(estimator: type[AdvantageEstimator]) -> None:
    rewards, modes, ids, truncated, forced, expected = [], [], [], [], [], []
    for number, group in enumerate(GROUPS.values()):
        truncated += [len(rewards) + place for place in group.truncated]
        forced += [len(rewards) + place for place in group.forced]
        rewards += group.rewards
        modes += group.modes
        ids += [number] * len(group.rewards)
        expected += advantages_by_hand(group)[estimator.__name__.lower()]
    close(estimator()(rollouts(rewards, modes, ids, truncated, forced)), expected)


def test_the_bias_turns_a_small_gain_around() -> None:
    # r̄_on = 1, r̄_off = 0.5: with ω = 0.5 the gain is exactly within the bias, and off counts 0.5 + 0.5 = 1:
    # both modes are then worth the same, so the judge learns nothing from them.
    third = 1 / math.sqrt(3)
    answers = [third, third, third, -3 * third]
    group = rollouts([1, 1, 1, 0], [1, 1, 0, 0])
    close(Process(bias=0.5)(group), [[answer, answer] for answer in answers])
    # with more, off is the better mode
    judges = [-1, -1, 1, 1]
    expected = [[judge + answer, answer] for judge, answer in zip(judges, answers, strict=True)]
    close(Process(bias=0.6)(group), expected)


def test_an_equal_mean_counts_for_off_and_a_better_off_gets_nothing_on_top() -> None:
    # r̄_on = r̄_off = 1/2, in float32 rounding too: the gain of 0 is within the bias
    judges = (
        Process()(rollouts([1, 0, 1, 0], [1, 1, 0, 0]))[:, 0]
        - Process()(rollouts([1, 0, 1, 0], [1, 1, 0, 0]))[:, 1]
    )
    close(judges[:, None], [[-1.0], [-1.0], [1.0], [1.0]])
    # off better: hipo's judge without γ is j / std = (r̄_mode - r̄) / std(r), r̄ = 1/4, std = √3/4
    judge = HiPO(bias=0.9, judge_gamma=0.0)(rollouts([0, 0, 1, 0], [1, 1, 0, 0]))[:, 0]
    close(judge[:, None], [[-1 / math.sqrt(3)]] * 2 + [[1 / math.sqrt(3)]] * 2)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_rewards_give_zero(estimator: type[AdvantageEstimator]) -> None:
    for reward in (0.0, 0.2, 1.2):
        assert torch.equal(estimator()(rollouts([reward] * 7, [1, 1, 0, 0, 0, -1, 1])), torch.zeros(7, 2))


def test_the_bias_can_tell_equally_good_modes_apart() -> None:
    # j: on 0, off ω·1.2; normalised over 1 on and 3 off: -√3 and 1/√3. The answers have nothing to learn.
    third = 1 / math.sqrt(3)
    group = rollouts([1.2] * 4, [1, 0, 0, 0])
    close(Process(0.1, bias_when_solved=True)(group), [[-3 * third, 0], [third, 0], [third, 0], [third, 0]])
    for still in (rollouts([1.2] * 3, [0, 0, 0]), rollouts([0.2] * 3, [1, 0, 0])):  # one mode; all wrong
        assert torch.equal(Process(0.1, bias_when_solved=True)(still), torch.zeros(3, 2))
    assert torch.equal(Process(0.0, bias_when_solved=True)(group), torch.zeros(4, 2))


def test_one_mode_only_leaves_the_judge_nothing_of_its_own() -> None:
    group = rollouts([1.2, 0.2, 0.2], [1, 1, 1])
    advantages = Process(bias=0.5)(group)
    torch.testing.assert_close(advantages[:, 0], advantages[:, 1])
    judge = HiPO(bias=0.5, judge_gamma=0.0)(group)[:, 0]
    assert torch.equal(judge, torch.zeros(3))


def test_a_modes_only_rollout_has_no_answer_advantage_in_hipo() -> None:
    advantages = HiPO()(rollouts([1.2, 0.2, 0.2, 1.2], [1, 0, 0, 0]))
    assert advantages[0, 1] == 0
    assert advantages[0, 0] > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_truncated_rollouts_count_in_the_mean_and_get_zero(estimator: type[AdvantageEstimator]) -> None:
    whole = estimator()(rollouts([1.2, 0.2, 0.0], [1, 0, 1]))
    cut = estimator()(rollouts([1.2, 0.2, 0.0], [1, 0, 1], truncated=[2]))
    assert torch.equal(cut[2], torch.zeros(2))
    torch.testing.assert_close(cut[:2], whole[:2])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_forced_judge_gets_zero_but_its_answer_learns(estimator: type[AdvantageEstimator]) -> None:
    free = estimator()(rollouts([1.2, 0.2, 0.2, 1.2], [1, 0, 1, 0]))
    forced = estimator()(rollouts([1.2, 0.2, 0.2, 1.2], [1, 0, 1, 0], forced=[0, 1]))
    assert torch.equal(forced[:2, 0], torch.zeros(2))
    torch.testing.assert_close(forced[:, 1], free[:, 1])
    torch.testing.assert_close(forced[2:], free[2:])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_rollouts(estimator: type[AdvantageEstimator]) -> None:
    assert estimator()(rollouts([], [])).shape == (0, 2)


def naive(
    name: str, members: list[tuple[float, int]], bias: float, gamma: float
) -> list[tuple[float, float]]:
    """One group, by loops over plain numbers; ties are told by exact arithmetic on tenths."""
    rewards = [reward for reward, _ in members]
    equal = max(rewards) - min(rewards) < 1e-9
    if equal and not (name.endswith("solved") and rewards[0] >= 1):
        return [(0.0, 0.0)] * len(members)
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) if not equal else 1.0
    by_mode = {mode: [r for r, m in members if m == mode] for _, mode in members}
    value = {mode: sum(own) / len(own) for mode, own in by_mode.items()}
    if 1 in value and 0 in value:
        gain, margin = value[1] - value[0], bias * abs(value[1])
        if -1e-9 <= gain <= margin + 1e-9:
            value[0] += margin
    judge = [value[mode] - mean if len(by_mode) > 1 else 0.0 for _, mode in members]
    answer = [0.0 if equal else (reward - mean) / std for reward in rewards]
    if name == "grpo":
        return [(a, a) for a in answer]
    if name.startswith("process"):
        centre = sum(judge) / len(judge)
        spread = math.sqrt(sum((j - centre) ** 2 for j in judge) / len(judge))
        same = max(judge) - min(judge) < 1e-9
        return [((0.0 if same else (j - centre) / spread) + a, a) for j, a in zip(judge, answer, strict=True)]
    result = []
    for (reward, mode), j in zip(members, judge, strict=True):
        own = by_mode[mode]
        centre = sum(own) / len(own)
        spread = math.sqrt(sum((r - centre) ** 2 for r in own) / len(own))
        inner = 0.0 if max(own) - min(own) < 1e-9 else (reward - centre) / spread
        result.append(((j + gamma * (reward - mean)) / std, inner))
    return result


MEMBERS = st.tuples(st.sampled_from([0.0, 0.2, 1.0, 1.2]), st.sampled_from([1, 0, -1]), st.integers(0, 3))


@given(st.lists(MEMBERS, min_size=1, max_size=24), st.sampled_from([0.0, 0.1, 0.5]))
def test_interleaved_groups_equal_a_loop_over_each(
    members: list[tuple[float, int, int]], bias: float
) -> None:
    rewards, modes, groups = (list(column) for column in zip(*members, strict=True))
    everything = rollouts(rewards, modes, groups)
    results = {
        "process": Process(bias)(everything),
        "process, bias when solved": Process(bias, bias_when_solved=True)(everything),
        "hipo": HiPO(bias, 0.3)(everything),
        "grpo": GRPO()(everything),
    }
    for name, advantages in results.items():
        assert advantages.isfinite().all()
        for group in set(groups):
            places = [index for index, own in enumerate(groups) if own == group]
            # float32 rewards, as the estimators get them
            exact = everything.rewards.double().tolist()
            truth = naive(name, [(exact[place], modes[place]) for place in places], bias, 0.3)
            torch.testing.assert_close(advantages[places], torch.tensor(truth), atol=1e-5, rtol=1e-5)


def terms(bias: float, group: Rollouts) -> dict[str, Tensor]:
    """Those of all estimators, each of which has the terms that its words name."""
    found: dict[str, Tensor] = {}
    for estimator in (Process(bias), HiPO(bias), GRPO()):
        own = estimator.terms(group)
        assert set(estimator.words) == set(own)
        found |= own
    return found


def test_the_terms_give_the_advantages_by_the_formulas() -> None:
    number = 400
    group = rollouts(
        torch.randint(0, 3, (number,)).div(2).tolist(),
        torch.randint(-1, 2, (number,)).tolist(),
        torch.arange(number).div(8, rounding_mode="floor").tolist(),
    )
    found = terms(0.3, group)
    varies = found["std"] > 1e-6

    def by_formula(judge: Tensor, answer: Tensor) -> Tensor:
        return torch.where(varies[:, None], torch.stack([judge, answer], dim=1), 0.0).float()

    judge, answer = found["judge_normalized"], found["answer_normalized"]
    torch.testing.assert_close(Process(bias=0.3)(group), by_formula(judge + answer, answer))
    torch.testing.assert_close(GRPO()(group), by_formula(answer, answer))
    own = (found["reward"] - found["mode_mean"]) / found["mode_std"]
    judge = (found["judge_reward"] + 0.5 * (found["reward"] - found["mean"])) / found["std"]
    expected = by_formula(judge, torch.where(found["mode_std"] > 1e-6, own, 0.0))
    torch.testing.assert_close(HiPO(bias=0.3, judge_gamma=0.5)(group), expected)


def test_the_terms_of_a_group_by_hand() -> None:
    # on: 1 and 1; off: 1 and 0. The gain 1/2 is within a bias of 0.6, which makes off worth 1.1.
    found = {
        name: values[3].item() for name, values in terms(0.6, rollouts([1, 1, 1, 0], [1, 1, 0, 0])).items()
    }
    assert math.isnan(found.pop("mean_none"))
    deviation = math.sqrt(3) / 4
    assert found == pytest.approx(
        {
            "reward": 0, "mean": 0.75, "std": deviation, "mean_on": 1, "mean_off": 1.1, "bias": 0.6,
            "judge_reward": 0.35, "judge_normalized": 1, "answer_normalized": -0.75 / deviation,
            "mode_mean": 0.5, "mode_std": 0.5,
        }
    )  # fmt: skip
