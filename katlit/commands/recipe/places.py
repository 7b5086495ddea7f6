"""Where the keys of a YAML file stand, and the file without some of them."""

import re
from collections.abc import Iterator, Sequence

import yaml

_CLASS = "class_path"


class Places:
    """The keys of a YAML file: their lines, and which of them a message is about.

    Args:
        name: The file, as messages name it.
        text: What is in it.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._root = yaml.compose(text, Loader=yaml.SafeLoader)
        self._lines = {path: line for path, line, _ in _keys(self._root)}

    def of(self, path: Sequence[str]) -> str:
        """File and line of a key, or of the nearest section around it.

        Args:
            path: The keys from the outermost to this one; an element of a list by its number.
        """
        known = (tuple(path[:n]) for n in range(len(path), 0, -1))
        return f"{self._name}:{next((self._lines[one] for one in known if one in self._lines), 1)}"

    def has(self, path: Sequence[str]) -> bool:
        """Whether the file has a key."""
        return tuple(path) in self._lines

    def find(self, key: str, message: str) -> tuple[str, ...] | None:
        """The key of the file that a message is about; None where it is about none.

        Args:
            key: A key as messages have it, without places in lists, perhaps without `init_args`.
            message: Says which of several it is, by the class that it names.
        """
        wanted, said = short(key), set(re.findall(r"\w+", message))
        keys = [(path, node) for path, _, node in _keys(self._root)]
        named = [
            path[:-1]
            for path, node in keys
            if path[-1] == _CLASS and str(node.value).rpartition(".")[2] in said
        ]
        classes = [(*path, _CLASS) for path in named if short(".".join(path)) == wanted]
        found = [path for path, _ in keys if short(".".join(path)) == wanted and path[-1] != "init_args"]
        inside = [path for path in found if any(path[:n] in named for n in range(len(path)))]
        return next(reversed(classes or inside or found), None)

    def remove(self, path: tuple[str, ...], instead: str | None = None) -> None:
        """Take a key out, a class with all of its settings, or put another class in its place."""
        if path[-1] == _CLASS and instead is None:
            path = path[:-1]
        parent = self._root
        for part in path[:-1]:
            parent = _inside(parent)[part]
        node = _inside(parent)[path[-1]]
        if instead is not None:
            node.value = instead
        elif isinstance(parent, yaml.MappingNode):
            parent.value = [pair for pair in parent.value if pair[1] is not node]
        elif isinstance(parent, yaml.SequenceNode):
            parent.value = [one for one in parent.value if one is not node]

    @property
    def text(self) -> str:
        """The file as YAML."""
        return "" if self._root is None else yaml.serialize(self._root, Dumper=yaml.SafeDumper)


def short(key: str) -> str:
    """A key without places in lists, `init_args`, the name of a callback and the sign that adds to a list."""
    key = re.sub(r"^callbacks\.\w+", "trainer.callbacks", key)
    parts = (part.rstrip("+") for part in re.sub(r"\[\d+\]", "", key).split("."))
    return ".".join(part for part in parts if part != "init_args" and not part.isdecimal())


def _inside(node: yaml.Node | None) -> dict[str, yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): value for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return {str(number): value for number, value in enumerate(node.value)}
    return {}


def _keys(
    node: yaml.Node | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], int, yaml.Node]]:
    """All keys in a node, each with its line and its value."""
    lines = {}
    if isinstance(node, yaml.MappingNode):
        lines = {str(key.value): key.start_mark.line for key, _ in node.value}
    for key, value in _inside(node).items():
        yield (*path, key), lines.get(key, value.start_mark.line) + 1, value
        yield from _keys(value, (*path, key))
