"""Prompt sets that come one after the other: mathematics first, then code (SRPO; recipe §5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from katlit.batch import Prompt
from katlit.datamodules.sources.base import PromptSource
from katlit.errors import UserError


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class CurriculumStage:
    """A set of prompts and how long it is trained on.

    Attributes:
        prompts: The set.
        epochs: Passes over what is not solved of it.
    """

    prompts: PromptSource
    epochs: int = 1


class Curriculum:
    """Sets of prompts in order; which one an epoch draws from depends on its number alone.

    So a resumed run needs no state of it. The last set is trained on until the run ends.

    Args:
        stages: The sets.
    """

    def __init__(self, stages: list[CurriculumStage]) -> None:
        if not stages or min(stage.epochs for stage in stages) < 1:
            raise UserError(
                f"Curriculum: epochs {[stage.epochs for stage in stages]}; give at least one stage, each of "
                "at least one epoch"
            )
        self.stages = stages

    def load(self) -> list[list[Prompt]]:
        """Return the prompts of each stage. What is solved in one of them is not drawn in another.

        Raises:
            UserError: as the sources do, and where two of them give one id to different questions.
        """
        loaded = [stage.prompts.read() for stage in self.stages]
        first: dict[str, tuple[int, Prompt]] = {}
        for number, prompts in enumerate(loaded):
            for prompt in prompts:
                before, same = first.setdefault(prompt["id"], (number, prompt))
                if (same["messages"], same.get("tools")) != (prompt["messages"], prompt.get("tools")):
                    raise UserError(
                        f"Curriculum: id '{prompt['id']}' is one question in stages[{before}] "
                        f"({self.stages[before].prompts.name}) and another in stages[{number}] "
                        f"({self.stages[number].prompts.name}); give the rows of one an id of their own, or "
                        "rename its file (ids come from the file's name where rows have none); wrap both "
                        "in JSONPrompts, or none"
                    )
        return loaded

    def of_epoch(self, loaded: Sequence[Sequence[Prompt]], epoch: int) -> Sequence[Prompt]:
        """The prompts, of those loaded, that an epoch draws from."""
        for stage, prompts in zip(self.stages, loaded, strict=True):
            epoch -= stage.epochs
            if epoch < 0:
                return prompts
        return loaded[-1]
