"""The advantage of a recorded rollout, computed anew from its group."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from katlit.advantages.base import EQUAL, AdvantageEstimator, Rollouts, estimate
from katlit.errors import UserError
from katlit.rollout.record import RolloutRecord
from katlit.text.printable import escaped

_MODES = {"on": 1, "off": 0, None: -1}


@runtime_checkable
class GivesAdvantages(Protocol):
    """A stage that learns from the rewards of groups."""

    estimator: AdvantageEstimator


class Explained(NamedTuple):
    """An advantage and where it comes from."""

    terms: dict[str, float]  # by the names of the estimator's `words`
    judge: float
    answer: float
    equal: bool  # whether all rewards of the group are
    equal_in_mode: bool  # whether all rewards of its mode are


def group_of(record: RolloutRecord, records: Sequence[RolloutRecord]) -> list[RolloutRecord]:
    """The rollouts of the same group that a reward could judge, in order.

    A prompt may be repeated within a step, on other ranks or the same: each time it is a group of its own.

    Args:
        record: One of the records.
        records: Records of a step.
    """
    group = [one for one in records if _place(one) == _place(record) and one["reward"] is not None]
    return sorted(group, key=lambda one: one["index"])


def _place(record: RolloutRecord) -> tuple[int, int]:
    return record["rank"], record["group"]


def explain(
    record: RolloutRecord, group: Sequence[RolloutRecord], estimator: AdvantageEstimator
) -> Explained | None:
    """What the estimator makes of the group, for one of its rollouts; None where that one was not judged.

    Args:
        record: The rollout.
        group: As `group_of` gives it.
        estimator: With the settings of the run.

    Raises:
        UserError: where the estimator, which may be a user's own, contradicts itself.
    """
    if record["reward"] is None:
        return None
    rollouts = Rollouts(
        torch.tensor([one["reward"] for one in group], dtype=torch.float32),
        torch.tensor([one["correct"] for one in group]),
        torch.zeros(len(group), dtype=torch.int64),
        torch.tensor([_MODES[one["mode"]] for one in group]),
        torch.tensor([one["truncated"] for one in group]),
        torch.tensor([one["thinking"] != "auto" for one in group]),
        torch.tensor([len(one["token_ids"]) for one in group]),
    )
    place = group.index(record)
    judge, answer = estimate(estimator, rollouts)[place].tolist()
    terms = estimator.terms(rollouts)
    for name in estimator.words:
        if name not in terms:
            owner = type(estimator).__name__
            raise UserError(f"model.estimator: {owner} has words for {name!r}, which is none of its terms")
    found = {name: float(terms[name][place]) for name in estimator.words}
    of_mode = rollouts.rewards[rollouts.modes == rollouts.modes[place]]
    return Explained(found, judge, answer, _equal(rollouts.rewards), _equal(of_mode))


def _equal(rewards: Tensor) -> bool:
    return bool(rewards.max() - rewards.min() <= EQUAL)


def copies(records: Sequence[RolloutRecord], prompt_id: str, index: int) -> list[RolloutRecord]:
    """The records of a rollout, in order of ranks and groups: several where its prompt was repeated.

    Raises:
        UserError: where there is none of this prompt or index, naming those there are.
    """
    of_prompt = [record for record in records if record["prompt_id"] == prompt_id]
    found = [record for record in of_prompt if record["index"] == index]
    if found:
        return sorted(found, key=_place)
    if of_prompt:
        known = f"of that prompt there are {sorted({record['index'] for record in of_prompt})}"
    else:
        ids = sorted({escaped(record["prompt_id"]) for record in records})
        known = f"prompts of that step: {', '.join(ids[:5])}{', …' if len(ids) > 5 else ''}"
    raise UserError(f"--rollout: no rollout {index} of prompt {prompt_id!r}; {known}")
