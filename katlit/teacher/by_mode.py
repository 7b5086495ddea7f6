"""Teachers by mode: one for both modes, or one for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from katlit.errors import UserError
from katlit.text.protocol import Mode

ValueT = TypeVar("ValueT")
ByMode: TypeAlias = ValueT | dict[str, ValueT]
"""One value for both modes, or a mapping with the keys `think_on` and `think_off`."""

_ENDPOINT = "endpoint:"  # before the name of a model of which there is nothing but text


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher, the setting that names it, and the modes of the records that it writes."""

    key: str
    name: str
    modes: tuple[Mode, ...] = tuple(Mode)


def is_text_only(teachers: Sequence[Teacher]) -> bool:
    """Whether of one of the teachers there is nothing but what an endpoint replies: `endpoint:NAME`."""
    return any(teacher.name.startswith(_ENDPOINT) for teacher in teachers)


def name_at_endpoint(name: str) -> str:
    """Return the name by which an endpoint has a model."""
    return name.removeprefix(_ENDPOINT)


def setting_of(mode: Mode) -> str:
    """Return the key of a mode in a mapping."""
    return f"think_{mode.value}"


def by_mode(given: ByMode[ValueT], key: str) -> dict[Mode, ValueT]:
    """Read a setting that may differ between the modes.

    Args:
        given: One value, or a mapping.
        key: The setting, for messages.

    Returns:
        The value of each mode.

    Raises:
        UserError: where a mapping lacks a mode, or has another key.
    """
    if not isinstance(given, dict):
        return dict.fromkeys(Mode, given)
    names = [setting_of(mode) for mode in Mode]
    if set(given) != set(names):
        raise UserError(
            f"{key}: its keys are {list(given)}; give {' and '.join(names)}, or one value for both modes"
        )
    return {mode: given[setting_of(mode)] for mode in Mode}


def teachers_of(given: ByMode[str] | None, key: str) -> list[Teacher]:
    """List the different teachers of a setting; that of the think-off records, which also votes, comes first.

    Args:
        given: No teacher, one, or a mapping of two; one that is named twice is one.
        key: The setting, for messages.
    """
    if given is None:
        return []
    names = by_mode(given, key)
    if len(set(names.values())) == 1:
        return [Teacher(key, names[Mode.THINK_OFF])]
    return [
        Teacher(f"{key}.{setting_of(mode)}", names[mode], (mode,)) for mode in (Mode.THINK_OFF, Mode.THINK_ON)
    ]
