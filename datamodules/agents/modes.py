"""Which queries think: by their tags, by the mix that is wanted, and by lot (our choice)."""

from collections.abc import Mapping, Sequence
from random import Random

from katlit.batch import Prompt
from katlit.datamodules.labelling.votes import explore
from katlit.datamodules.tagging import MergedTags, choose_modes
from katlit.text.protocol import Mode


def modes_of(
    prompts: Sequence[Prompt],
    tags: Sequence[MergedTags],
    think_share: float | None,
    think_share_by_domain: Mapping[str, float],
    epsilon: float,
    seed: int,
) -> list[Mode]:
    """Choose the mode of each query.

    Args:
        prompts: The queries.
        tags: What the votes on each say.
        think_share: Share of the queries that think; None: those of which the tags say that they need it.
        think_share_by_domain: Shares of domains that have another one.
        epsilon: Share of the queries that get a random mode instead.
        seed: Seed of the lots.

    Raises:
        UserError: where a share is none.
    """
    if think_share is None:
        modes = [Mode.THINK_ON if each.tags.needs_reasoning else Mode.THINK_OFF for each in tags]
    else:
        modes = choose_modes(tags, think_share_by_domain, seed, think_share)
    lots = [Random(f"{seed}/mode/{prompt['id']}") for prompt in prompts]  # noqa: S311 (a lot, no secret)
    return [explore(mode, epsilon, lot) for mode, lot in zip(modes, lots, strict=True)]
