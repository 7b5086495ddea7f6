"""Names that a setting may have, and which of them was probably meant."""

import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, get_args

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

import katlit
from katlit.commands.class_catalogue import BESIDE

_SECTIONS = {"model": LightningModule, "data": LightningDataModule}
_BASES = ("stage",)  # exports what is subclassed, never named in settings


def sections(settings: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All sections of resolved settings, with their full keys."""
    if isinstance(settings, dict):
        yield path, settings
        for name, value in settings.items():
            yield from sections(value, f"{path}.{name}" if path else str(name))
    elif isinstance(settings, list):
        for number, value in enumerate(settings):
            yield from sections(value, f"{path}[{number}]")


def hint(given: str, known: Iterable[str]) -> str:
    """What to give instead of a key that is not known: the nearest one, or any if none is near."""
    names = sorted(set(known))
    if nearest := get_close_matches(given, names, n=1):
        return f"the nearest is {nearest[0]}"
    return f"choose one of {', '.join(names)}" if names else "leave it out"


def class_hint(given: str, wanted: Sequence[type]) -> str:
    """What to give instead of a class that is not known, or is of another kind.

    Args:
        given: Its name, with its package or without.
        wanted: Classes of which it must be a subclass.
    """
    ours = _exported((f"katlit.{name}" for name in (*_packages(), *BESIDE)), wanted)
    lightnings = (kind.__module__.rpartition(".")[0] for kind in wanted if _is_lightnings(kind))
    by_name = {path.rpartition(".")[2].lower(): path for path in [*_exported(lightnings, wanted), *ours]}
    if nearest := get_close_matches(given.rpartition(".")[2].lower(), by_name, n=1):
        return f"the nearest is {by_name[nearest[0]]}"
    if ours:
        return f"choose one of {', '.join(ours)}, or a class of your own"
    kinds = " or ".join(kind.__name__ for kind in wanted)
    return f"give the full name of a subclass of {kinds}" if kinds else "give the full name of a class"


def key_hint(given: str, owner: type) -> str:
    """What to give instead of a key that a class does not know: its place in a group, or the nearest."""
    keys = keys_of(owner)
    for name in keys:
        group = group_at(owner, name)
        if group and group.__module__.startswith("katlit.") and given in keys_of(group):
            return f"it is {name}.{given}" if is_dataclass(group) else f"it is {name}.init_args.{given}"
    return hint(given, keys)


def keys_of(owner: type) -> list[str]:
    """The arguments of a class, with those that its constructor passes on to its bases."""
    return list(parameters_of(owner))


def parameters_of(owner: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class by name, with those that its constructor passes on to its bases."""
    found: dict[str, inspect.Parameter] = {}
    for base in inspect.getmro(owner):
        parameters = list(_arguments(base)) if "__init__" in vars(base) else []
        kinds = {parameter.kind for parameter in parameters}
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        for parameter in parameters:
            if parameter.kind in named:
                found.setdefault(parameter.name, parameter)
        if "__init__" in vars(base) and inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def _arguments(owner: type) -> Iterable[inspect.Parameter]:
    try:
        return inspect.signature(owner).parameters.values()
    except ValueError:  # of a class written in C
        return ()


def class_at(path: str) -> type | None:
    """The class of that full name, where there is one."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except (ImportError, ValueError, TypeError):
        return None
    return found if isinstance(found, type) else None


def wanted_at(keys: Sequence[str], owners: Sequence[str]) -> list[type]:
    """The classes of which a setting's must be a subclass.

    Args:
        keys: Key of the outermost setting, then those below the `init_args` of one class after the other.
        owners: Full names of these classes.
    """
    if len(keys) == 1:
        section, _, argument = keys[0].partition(".")
        if section in _SECTIONS:
            return [_SECTIONS[section]]
        return _classes(_hints(Trainer).get(argument))
    owner = class_at(owners[len(keys) - 2])
    return [] if owner is None else _classes(_hints(owner).get(keys[-1]))


def group_at(owner: type, argument: str) -> type | None:
    """The class whose keys are those of a section without a `class_path`."""
    return next(iter(_classes(_hints(owner).get(argument))), None)


def _packages() -> Iterator[str]:
    found = (module.name for module in pkgutil.iter_modules(katlit.__path__) if module.ispkg)
    return (name for name in found if name not in _BASES)


def _exported(packages: Iterable[str], wanted: Sequence[type]) -> list[str]:
    found = []
    for package in dict.fromkeys(packages):
        module = import_module(package)
        for name in getattr(module, "__all__", ()):
            kind = getattr(module, name)
            if isinstance(kind, type) and issubclass(kind, tuple(wanted)) and not inspect.isabstract(kind):
                found.append(f"{package}.{name}")
    return found


def _is_lightnings(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "lightning"


def _hints(owner: type) -> Mapping[str, Any]:
    try:
        parameters = inspect.signature(owner, eval_str=True).parameters
    except (NameError, TypeError, ValueError):  # names that upstream imports for type checkers only
        return {}
    return {name: parameter.annotation for name, parameter in parameters.items()}


def _classes(annotation: Any) -> list[type]:
    """The classes in an annotation such as `list[Callback] | Callback | None`, without Python's own."""
    if inner := get_args(annotation):
        return list(dict.fromkeys(kind for one in inner for kind in _classes(one)))
    ours = isinstance(annotation, type) and annotation.__module__ != "builtins"
    return [annotation] if ours else []
