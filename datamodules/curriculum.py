"""Prompt sets that come one after the other: mathematics first, then code (SRPO; recipe §5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.sources import PromptSource
from katlit.batch import Prompt
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
        """Return the prompts of each stage.

        Raises:
            UserError: as the sources do.
        """
        return [stage.prompts.load() for stage in self.stages]

    def of_epoch(self, loaded: Sequence[Sequence[Prompt]], epoch: int) -> Sequence[Prompt]:
        """The prompts, of those loaded, that an epoch draws from."""
        for stage, prompts in zip(self.stages, loaded, strict=True):
            epoch -= stage.epochs
            if epoch < 0:
                return prompts
        return loaded[-1]
