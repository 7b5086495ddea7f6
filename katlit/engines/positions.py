"""How long a context the positions of a model allow."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from katlit.errors import UserError

_KEYS = ("max_position_embeddings", "n_positions")  # as configurations call it


def require_positions(model_directory: Path, max_context: int) -> None:
    """Refuse contexts beyond the positions that a model was made for: beyond them it writes nonsense.

    Args:
        model_directory: Hugging Face directory; without a `config.json` nothing is refused.
        max_context: Longest prompt plus completion, in tokens.

    Raises:
        UserError: naming the number of positions.
    """
    file = model_directory / "config.json"
    if not file.is_file():
        return  # the engine says itself what is missing
    limit = positions(json.loads(file.read_text(encoding="utf-8")))
    if limit is not None and max_context > limit:
        raise UserError(
            f"max_context: {max_context}, but the model has positions for {limit} tokens; give at most "
            f"{limit}"
        )


def positions(config: Mapping[str, Any]) -> int | None:
    """Positions that a configuration describes, scaled ones included; None where it has no limit.

    Some configurations count the positions before the scaling of the rotary embeddings, some after it; the
    larger number is taken.
    """
    own = config | config.get("text_config", {})
    found = [int(own[key]) for key in _KEYS if own.get(key)]
    if not found:
        return None
    for scaling in _scalings(own.get("rope_parameters") or own.get("rope_scaling") or {}):
        kind = scaling.get("rope_type", scaling.get("type"))
        if kind in ("linear", "dynamic", "yarn"):
            before = scaling.get("original_max_position_embeddings") or max(found)
            found.append(int(before * scaling.get("factor", 1.0)))
    return max(found)


def _scalings(rope: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """One for all layers, or one for each kind of layer."""
    kinds = [value for value in rope.values() if isinstance(value, Mapping)]
    yield from kinds or [rope]
