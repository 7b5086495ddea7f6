"""History resampling: prompts that a model always solves stop being drawn (SRPO; recipe §5)."""

from collections.abc import Iterable, Sequence
from typing import TypedDict


class HistoryState(TypedDict):
    """The history as a checkpoint keeps it."""

    solved: dict[str, int]
    latest: dict[str, float]


class History:
    """Remembers in which epoch every rollout of a prompt was correct, and what share of its latest ones.

    Mixed and all-wrong prompts stay: the first carry a signal now, the second may later. A rollout that no
    reward could judge is not known to be correct, so its prompt is not solved (our choice).
    """

    def __init__(self) -> None:
        self._solved: dict[str, int] = {}
        self._latest: dict[str, float] = {}

    def record(self, prompt_id: str, correct: Sequence[bool], epoch: int, unjudged: int = 0) -> None:
        """Take note of a prompt's rollouts, all that it has in a step; of none that is judged, no note.

        An epoch may draw a prompt again, to fill its last step: then the later rollouts decide.

        Args:
            prompt_id: The prompt.
            correct: Whether each judged rollout is correct.
            epoch: That they are of.
            unjudged: How many there are beside these.
        """
        if not correct:
            return
        self._latest[prompt_id] = sum(correct) / (len(correct) + unjudged)
        if all(correct) and not unjudged:
            self._solved[prompt_id] = min(epoch, self._solved.get(prompt_id, epoch))
        elif self._solved.get(prompt_id) == epoch:
            del self._solved[prompt_id]

    def active(self, prompt_ids: Iterable[str], epoch: int) -> list[str]:
        """Return the prompts to draw in `epoch`, in order: those not solved in an earlier one.

        If all were solved the whole list comes back, because an empty epoch would end the training.
        """
        everything = list(prompt_ids)
        kept = [prompt_id for prompt_id in everything if self._solved.get(prompt_id, epoch) >= epoch]
        return kept or everything

    def counts(self, prompt_ids: Iterable[str], epoch: int) -> dict[str, int]:
        """How many of an epoch's prompts are drawn, and why not the others.

        Args:
            prompt_ids: That the epoch could draw from.
            epoch: Number of the epoch.

        Returns:
            `prompts`; of them `active` and `dropped_solved` (in an earlier epoch); of the active ones
            `solved` (in this epoch, so that the next one drops them), `mixed` and `all_wrong` by their latest
            rollouts, and `unseen`.
        """
        everything = list(prompt_ids)
        active = self.active(everything, epoch)
        seen = [self._latest[prompt_id] for prompt_id in active if prompt_id in self._latest]
        solved, wrong = seen.count(1.0), seen.count(0.0)
        return {
            "prompts": len(everything),
            "active": len(active),
            "dropped_solved": len(everything) - len(active),
            "solved": solved,
            "mixed": len(seen) - solved - wrong,
            "all_wrong": wrong,
            "unseen": len(active) - len(seen),
        }

    def state_dict(self) -> HistoryState:
        """Return a copy of the history."""
        return {"solved": dict(self._solved), "latest": dict(self._latest)}

    def load_state_dict(self, state: HistoryState) -> None:
        """Replace the history by a saved one."""
        self._solved, self._latest = dict(state["solved"]), dict(state.get("latest", {}))
