"""What a recipe says: a model, what all steps share, and what differs in each stage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from katlit.commands.recipe.places import Places


@dataclass(frozen=True, slots=True)
class Overlay:
    """What a step is given beside what all are given.

    Attributes:
        settings: Settings files, as `-c` takes them.
        set: Values by their full keys.
        launch: Words before the command, such as `srun --nodes=8`; none where it starts by itself.
    """

    settings: tuple[str, ...] = ()
    set: Mapping[str, Any] = field(default_factory=dict)
    launch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe.

    Attributes:
        name: Name of the parent run.
        experiment: MLflow experiment of the parent run.
        output: Folder of all that is written.
        seed: Seed of every step.
        memory: Memory of one device of the hardware that it is for, as `katlit plan` takes it; this
            machine's where it is not given.
        model: The model that the first stage starts from: a directory or a name on the hub.
        teacher: The teacher, or a mapping of two; files say it where this does not.
        prompts: Queries that all stages learn from, a class path with its arguments; likewise.
        heldout: Queries that all evaluations ask; likewise.
        common: What every step is given.
        evaluation: What every evaluation is given; none is made without.
        evaluate_base: Evaluate the model before all stages too, which has to know the protocol's tokens.
        stages: What each stage is given, in their order.
        labels: What the labelling of a stage is given beside.
        places: Where its keys stand.
    """

    name: str
    experiment: str
    output: Path
    seed: int
    memory: str | None
    model: str
    teacher: Any
    prompts: Any
    heldout: Any
    common: Overlay
    evaluation: Overlay | None
    evaluate_base: bool
    stages: Mapping[str, Overlay]
    labels: Mapping[str, Overlay]
    places: Places
