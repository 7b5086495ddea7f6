"""`katlit card`: the figures of `katlit test` in the model card of the export that was tested."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from katlit.commands.report import read_evaluation
from katlit.errors import UserError, first_line
from katlit.model.card import CARD, UNREADABLE, card_text, read_record, write_card
from katlit.model.fingerprint import sample_model

_KEPT = ("policies", "headline", "num_prompts", "seed", "sampling", "engine", "versions")


def main(arguments: Sequence[str]) -> int:
    """Add an evaluation to the model card of an export.

    Args:
        arguments: What follows `katlit card`; `--help` lists them.

    Returns:
        The exit status.

    Raises:
        UserError: where there is no such export or evaluation, the evaluation is of other weights, or the
            card was changed by hand.
    """
    parser = argparse.ArgumentParser(prog="katlit card", description=main.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("directory", metavar="DIR", type=Path, help="what a stage exported")
    parser.add_argument("--evaluation", required=True, metavar="FILE", type=Path,
                        help="the evaluation.json that `katlit test` wrote of this very model")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="also a card that was changed by hand")
    given = parser.parse_args(list(arguments))
    record = read_record(given.directory)
    evaluation = read_evaluation(given.evaluation)
    _require_same(given.directory, given.evaluation, evaluation.get("model"))
    card = given.directory / CARD
    try:
        ours = card_text(given.directory, record)
    except UNREADABLE as error:
        raise UserError(
            f"{given.directory}: no whole export ({first_line(error)}); export the model again"
        ) from error
    is_ours = not card.is_file() or card.read_text(encoding="utf-8", errors="replace") == ours
    if not (is_ours or given.overwrite):
        raise UserError(f"{card}: was changed by hand; keep a copy of it and give --overwrite")
    evaluated = record | {"evaluation": {key: evaluation.get(key) for key in _KEPT}}
    try:
        card_text(given.directory, evaluated)
    except UNREADABLE as error:
        raise UserError(
            f"{given.evaluation}: lacks what a card shows ({first_line(error)}); evaluate the model again"
        ) from error
    write_card(given.directory, evaluated)
    if evaluation.get("model") is None:
        sys.stderr.write(f"{given.evaluation}: does not say of which model it is; taken for this one's\n")
    return 0


def _require_same(directory: Path, file: Path, evaluated: Any) -> None:
    if evaluated is not None and evaluated != sample_model(str(directory)):
        raise UserError(
            f"{file}: is of another model than {directory}, or of earlier weights; evaluate this one by "
            "`katlit test`"
        )
