"""Where the keys of a YAML file stand."""

from collections.abc import Iterator, Sequence

import yaml


class Places:
    """The lines of a YAML file's keys.

    Args:
        name: The file, as messages name it.
        text: What is in it.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines = dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader)))

    def of(self, path: Sequence[str]) -> str:
        """File and line of a key, or of the nearest section around it.

        Args:
            path: The keys from the outermost to this one; an element of a list by its number.
        """
        known = (tuple(path[:n]) for n in range(len(path), 0, -1))
        return f"{self._name}:{next((self._lines[one] for one in known if one in self._lines), 1)}"


def _lines(node: yaml.Node | None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        inside = [(str(key.value), key.start_mark.line, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inside = [(str(number), value.start_mark.line, value) for number, value in enumerate(node.value)]
    else:
        return
    for key, line, value in inside:
        yield (*path, key), line + 1
        yield from _lines(value, (*path, key))
