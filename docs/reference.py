"""A hook of mkdocs: writes the classes that settings may name into reference.md."""

from typing import Any

from katlit.commands.class_catalogue import KINDS, entries

_PLACE = "<!-- classes -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the classes, by what they are for, where the page has room for them."""
    return markdown.replace(_PLACE, "\n".join(_lines())) if _PLACE in markdown else markdown


def _lines() -> list[str]:
    found = []
    for kind in KINDS:
        found += [f"\n## {kind.title}\n", f"For `{kind.key}`.\n"]
        found += [f"::: {entry.path}\n" for entry in entries(kind)]
    return found
