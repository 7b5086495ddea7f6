"""What `katlit help CLASS` prints: what a class is for, and its settings with types and defaults."""

import inspect
import re
from textwrap import fill, indent
from typing import Any

from docstring_parser import Docstring, parse
from docstring_parser.common import DocstringStyle

from katlit.commands.known_names import parameters_of

_WIDTH = 100
_QUALIFIED = re.compile(r"\b(?:\w+\.)+(?=\w)")  # `katlit.model.backbone.` of `katlit.model.backbone.Backbone`


def page(owner: type, path: str) -> str:
    """Describe a class.

    Args:
        owner: The class.
        path: Its full name, as settings write it.
    """
    read = _docstring(owner)
    text = [path, ""]
    text += [fill(part, _WIDTH) for part in (read.short_description, read.long_description) if part]
    meanings: dict[str, str] = {}
    for base in reversed(inspect.getmro(owner)):
        meanings |= _meanings(base)
    settings = [
        _setting(parameter, meanings.get(name, "")) for name, parameter in parameters_of(owner).items()
    ]
    return "\n".join([*text, "", "settings:" if settings else "It has no settings.", *settings])


def _setting(parameter: inspect.Parameter, meaning: str) -> str:
    kind = "" if parameter.annotation is inspect.Parameter.empty else f": {_spelled(parameter.annotation)}"
    default = (
        "  (required)" if parameter.default is inspect.Parameter.empty else f" = {_value(parameter.default)}"
    )
    body = indent(fill(meaning, _WIDTH - 6), " " * 6)
    return f"  {parameter.name}{kind}{default}" + (f"\n{body}" if meaning else "")


def _spelled(annotation: Any) -> str:
    """A type as a reader writes it, without the packages of its names."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _QUALIFIED.sub("", text)


def _value(default: Any) -> str:
    """A default; of an object the class, whose own settings have a page of their own."""
    plain = isinstance(default, str | int | float | bool | tuple | list | dict | None)
    made = repr(default) == "<factory>"  # a dataclass's, each time anew
    return repr(default) if plain else "(made anew)" if made else f"{type(default).__name__}(...)"


def _docstring(owner: type) -> Docstring:
    return parse(inspect.cleandoc(vars(owner).get("__doc__") or ""), style=DocstringStyle.GOOGLE)


def _meanings(owner: type) -> dict[str, str]:
    return {each.arg_name: " ".join((each.description or "").split()) for each in _docstring(owner).params}
