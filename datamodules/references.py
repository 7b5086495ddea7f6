"""Prompts whose answers no reward could judge are found before anything is sampled."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from lightning.pytorch.utilities import rank_zero_only

from katlit.batch import Prompt
from katlit.datamodules.sources.base import PromptSource
from katlit.errors import UserError

logger = logging.getLogger(__name__)

OnUnverifiable = Literal["drop", "refuse"]
_NAMED = 3  # causes, and places of each, that a message names


def verifiable(
    prompts: Sequence[Prompt],
    problem: Callable[[Prompt], str | None],
    source: PromptSource,
    key: str,
    on_unverifiable: OnUnverifiable = "drop",
) -> list[Prompt]:
    """Leave out the prompts whose answers cannot be judged, and say how many and why, or refuse them.

    Args:
        prompts: All that a source has loaded.
        problem: Says why no answer to a prompt can be judged.
        source: Where they come from; knows the file and line of each.
        key: The setting that names the source, for messages.
        on_unverifiable: What to do with them.

    Raises:
        UserError: where there are some and they are to be refused, and where no others are left.
    """
    problems = {prompt["id"]: why for prompt in prompts if (why := problem(prompt)) is not None}
    if not problems:
        return list(prompts)
    told = f"{key}: {len(problems)} of {len(prompts)} prompts cannot be verified: {_causes(problems, source)}"
    if len(problems) == len(prompts):
        raise UserError(
            f"{told} - name the column of the references, e.g. columns: {{reference: answer}}, and the "
            "verifier that reads them"
        )
    if on_unverifiable == "refuse":
        raise UserError(f"{told} - mend them, leave them out, or set data.init_args.unverifiable: drop")
    _warn("%s - they are left out", told)
    return [prompt for prompt in prompts if prompt["id"] not in problems]


def _causes(problems: Mapping[str, str], source: PromptSource) -> str:
    """The first causes, each with the first places where it is met."""
    places: dict[str, list[str]] = {}
    for prompt_id, why in problems.items():
        places.setdefault(why, []).append(source.place(prompt_id))
    causes = [
        f"{', '.join(found[:_NAMED])}{', …' if len(found) > _NAMED else ''}: {why}"
        for why, found in list(places.items())[:_NAMED]
    ]
    return "; ".join([*causes, "…"] if len(places) > _NAMED else causes)


@rank_zero_only
def _warn(message: str, *values: object) -> None:
    logger.warning(message, *values)


def say_unverified(prompts: Sequence[Prompt], key: str) -> None:
    """Say how many prompts have no reference, so that any well-formed answer to them will do."""
    number = sum(not prompt["reference"].strip() for prompt in prompts)
    if number:
        _warn(
            "%s: %d of %d prompts have no reference; answers to them are kept unverified",
            key, number, len(prompts),
        )  # fmt: skip
