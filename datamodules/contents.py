"""What a data set holds, in a few bytes: a run goes on from a checkpoint only with the rows it had."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import TypedDict

from katlit.errors import UserError


class Contents(TypedDict):
    """A set of rows as a checkpoint keeps it; where its file lies does not matter."""

    rows: int
    sha256: str  # of the rows in their order


def contents_of(rows: Iterable[bytes]) -> Contents:
    """The contents of a set of rows."""
    digest, number = hashlib.sha256(), 0
    for number, row in enumerate(rows, 1):  # noqa: B007 (counted)
        digest.update(hashlib.sha256(row).digest())
    return {"rows": number, "sha256": digest.hexdigest()}


def require_same(saved: Sequence[Contents], present: Sequence[Contents], key: str) -> None:
    """Refuse to go on with other rows: the place in an epoch, and which rows are solved, would be of others.

    Args:
        saved: The sets that the checkpoint was written with.
        present: Those that are there now.
        key: The setting that names them.

    Raises:
        UserError: naming how many rows there were and are.
    """
    if list(saved) == list(present):
        return
    was, now = (" + ".join(str(part["rows"]) for part in parts) for parts in (saved, present))
    rows = f"{was} rows, now there are {now}" if was != now else f"{was} rows, and now some are others"
    raise UserError(
        f"{key}: the checkpoint was written with {rows} (ids and order count); give the same rows, or start "
        "a new run from the model of this one, by backbone.init_from"
    )
