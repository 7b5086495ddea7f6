"""The advantage of a recorded rollout, computed anew from its group."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from katlit.errors import UserError
from katlit.losses.advantages import Rollouts, terms
from katlit.rollout.record import RolloutRecord

_MODES = {"on": 1, "off": 0, None: -1}


@runtime_checkable
class GivesAdvantages(Protocol):
    """A stage that learns from the rewards of groups."""

    estimator: str
    bias: float

    def advantages(self, rollouts: Rollouts) -> Tensor:
        """Judge and answer advantage of each rollout, [N, 2]."""


class Explained(NamedTuple):
    """An advantage and where it comes from."""

    terms: dict[str, float]  # by the names of `katlit.losses.advantages.terms`
    judge: float
    answer: float


def group_of(record: RolloutRecord, records: Sequence[RolloutRecord]) -> list[RolloutRecord]:
    """The rollouts of the same prompt and step that a reward could judge, each once, in order.

    Prompts are repeated where ranks would have unequally many; so are their rollouts then, seed by seed.
    """
    same = {one["index"]: one for one in records if one["prompt_id"] == record["prompt_id"]}
    return [same[index] for index in sorted(same) if same[index]["reward"] is not None]


def explain(
    record: RolloutRecord, group: Sequence[RolloutRecord], stage: GivesAdvantages
) -> Explained | None:
    """What the stage makes of the group, for one of its rollouts; None where that one was not judged.

    Args:
        record: The rollout.
        group: As `group_of` gives it.
        stage: With the settings of the run.
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
    )
    (place,) = [place for place, one in enumerate(group) if one["index"] == record["index"]]
    judge, answer = stage.advantages(rollouts)[place].tolist()
    found = {name: float(values[place]) for name, values in terms(rollouts, stage.bias).items()}
    return Explained(found, judge, answer)


def chosen(records: Sequence[RolloutRecord], prompt_id: str, index: int) -> RolloutRecord:
    """The record of a rollout.

    Raises:
        UserError: where there is none of this prompt or index, naming those there are.
    """
    of_prompt = [record for record in records if record["prompt_id"] == prompt_id]
    found = [record for record in of_prompt if record["index"] == index]
    if found:
        return found[0]
    if of_prompt:
        known = f"of that prompt there are {sorted({record['index'] for record in of_prompt})}"
    else:
        ids = sorted({record["prompt_id"] for record in records})
        known = f"prompts of that step: {', '.join(ids[:5])}{', …' if len(ids) > 5 else ''}"
    raise UserError(f"--rollout: no rollout {index} of prompt {prompt_id!r}; {known}")
