"""Prompts whose answers no reward could judge are found before anything is sampled."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from lightning.pytorch.utilities import rank_zero_only

from katlit.batch import Prompt
from katlit.datamodules.sources.base import PromptSource
from katlit.errors import UserError

logger = logging.getLogger(__name__)

OnUnverifiable = Literal["drop", "refuse"]
_NAMED = 3  # that a message names


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
    first = "; ".join(f"{source.place(one)}: {why}" for one, why in list(problems.items())[:_NAMED])
    told = f"{key}: {len(problems)} of {len(prompts)} prompts cannot be verified: {first}"
    told += "; …" if len(problems) > _NAMED else ""
    if len(problems) == len(prompts):
        raise UserError(
            f"{told} - name the column of the references, e.g. columns: {{reference: answer}}, and the "
            "verifier that reads them"
        )
    if on_unverifiable == "refuse":
        raise UserError(f"{told} - mend them, leave them out, or set data.init_args.unverifiable: drop")
    _warn("%s - they are left out", told)
    return [prompt for prompt in prompts if prompt["id"] not in problems]


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
