"""Which documents fit into a batch, and a word on those that do not."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from katlit.datamodules.records import Record
from katlit.errors import UserError
from katlit.text.protocol import Mode

logger = logging.getLogger(__name__)


def fitting(records: Sequence[Record], lengths: Sequence[int], batch_tokens: int, path: Path) -> list[int]:
    """Say which documents are longer than a batch; refuse to leave out all of a mode.

    Args:
        records: What the documents say.
        lengths: Tokens of each document.
        batch_tokens: Most tokens of a batch.
        path: File of the records, for the message.

    Returns:
        Numbers of the documents that fit.

    Raises:
        UserError: where no document of a mode does.
    """
    dropped = [index for index, length in enumerate(lengths) if length > batch_tokens]
    usable = [index for index, length in enumerate(lengths) if length <= batch_tokens]
    for mode in Mode:
        own = [index for index, record in enumerate(records) if record.regime is mode]
        if own and set(usable).isdisjoint(own):
            raise UserError(
                f"data.batches.batch_tokens: {batch_tokens}; all {len(own)} think-{mode.value} documents of "
                f"{path} are longer, the shortest has {min(lengths[i] for i in own)} "
                f"tokens and the longest {max(lengths[i] for i in own)}; raise it"
            )
    if dropped:
        counts = Counter(f"think-{records[index].regime.value}" for index in dropped)
        logger.warning(
            "data: %d of %d documents are longer than batch_tokens=%d and left out: %s, such as %s",
            len(dropped), len(records), batch_tokens, ", ".join(f"{n} {mode}" for mode, n in counts.items()),
            ", ".join(f"{records[i].id!r:.40} ({lengths[i]} tokens)" for i in dropped[:3]),
        )  # fmt: skip
    return usable
