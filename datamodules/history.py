"""History resampling: prompts that a model always solves stop being drawn (SRPO; recipe §5)."""

from collections.abc import Iterable, Sequence
from typing import TypedDict


class HistoryState(TypedDict):
    """The history as a checkpoint keeps it."""

    solved: dict[str, int]


class History:
    """Remembers in which epoch every rollout of a prompt was correct.

    Mixed and all-wrong prompts stay: the first carry a signal now, the second may later.
    """

    def __init__(self) -> None:
        self._solved: dict[str, int] = {}

    def record(self, prompt_id: str, correct: Sequence[bool], epoch: int) -> None:
        """Take note of a prompt's rollouts; no rollouts, no note."""
        if correct and all(correct):
            self._solved.setdefault(prompt_id, epoch)

    def active(self, prompt_ids: Iterable[str], epoch: int) -> list[str]:
        """Return the prompts to draw in `epoch`, in order: those not solved in an earlier one.

        If all were solved the whole list comes back, because an empty epoch would end the training.
        """
        everything = list(prompt_ids)
        kept = [prompt_id for prompt_id in everything if self._solved.get(prompt_id, epoch) >= epoch]
        return kept or everything

    def dropped(self, epoch: int) -> int:
        """Count the prompts solved before `epoch`."""
        return sum(solved_in < epoch for solved_in in self._solved.values())

    def merge(self, states: Iterable[HistoryState]) -> None:
        """Take over what other ranks have seen; the earliest epoch counts."""
        for state in states:
            for prompt_id, epoch in state["solved"].items():
                self._solved[prompt_id] = min(epoch, self._solved.get(prompt_id, epoch))

    def state_dict(self) -> HistoryState:
        """Return a copy of the history."""
        return {"solved": dict(self._solved)}

    def load_state_dict(self, state: HistoryState) -> None:
        """Replace the history by a saved one."""
        self._solved = dict(state["solved"])
