"""The classes that settings may name, read from the sources: importing them would take seconds."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import katlit

# Installed below katlit from folders of their own, so an editable install does not list them there.
BESIDE = ("modules", "datamodules")


@dataclass(frozen=True, slots=True)
class Kind:
    """Classes that stand in one place of the settings."""

    title: str
    key: str
    package: str
    roots: frozenset[str]  # names of the classes of which they are kinds


@dataclass(frozen=True, slots=True)
class Entry:
    """A class as its source describes it."""

    path: str  # as settings name it
    summary: str  # the first line of its docstring


KINDS = (
    Kind("Stages", "model", "modules", frozenset({"LightningModule"})),
    Kind("Data", "data", "datamodules", frozenset({"LightningDataModule"})),
    Kind("Prompts", "prompts, train, val, test of data", "datamodules", frozenset({"PromptSource"})),
    Kind("Labellers", "labeller of data", "datamodules", frozenset({"Labeller"})),
    Kind("Scorers of teachers", "scorer of CachedTeacher", "teacher", frozenset({"TeacherScorer"})),
    Kind("Advantages", "estimator of StepSRPO", "advantages", frozenset({"AdvantageEstimator"})),
    Kind("Engines", "engine of data, of callbacks that sample", "engines", frozenset({"RolloutEngine"})),
    Kind("Rewards", "rewards of callbacks that sample", "rewards", frozenset({"Reward"})),
    Kind("Callbacks", "trainer.callbacks", "callbacks", frozenset({"Callback", "ProgressBar"})),
    Kind(
        "Strategies",
        "trainer.strategy",
        "parallel",
        frozenset({"ModelParallelStrategy", "DeepSpeedStrategy"}),
    ),
    Kind("Loggers", "trainer.logger", "tracking", frozenset({"Logger"})),
)


def entries(kind: Kind) -> list[Entry]:
    """The classes of a kind that its package exports, in its own order; abstract ones are left out."""
    exporting = _folder(kind.package) / "__init__.py"
    found = []
    for name in _names_imported(_tree(exporting)):
        source = _source_of(name, exporting)
        if source is not None and kind.roots & _ancestors(name, source):
            summary = (ast.get_docstring(_classes(source)[name]) or "").partition("\n")[0]
            found.append(Entry(f"katlit.{kind.package}.{name}", summary))
    return found


def paths_of(name: str) -> list[str]:
    """Full names of katlit's public classes of that name, those of packages where these export it."""
    found: list[str] = []
    for module, file in _modules():
        if name in _classes(file) and not name.startswith("_"):
            package = ".".join(module.split(".")[:2])
            face = _folder(package.partition(".")[2]) / "__init__.py"
            exported = _source_of(name, face) == file
            found.append(f"{package if exported else module}.{name}")
    return found


def class_names() -> set[str]:
    """Names of all public classes of katlit."""
    return {name for _, file in _modules() for name in _classes(file) if not name.startswith("_")}


def _modules() -> Iterator[tuple[str, Path]]:
    """All modules and where their sources are."""
    inner = [path.name for path in Path(katlit.__path__[0]).iterdir() if (path / "__init__.py").exists()]
    for package in sorted({*inner, *BESIDE}):
        for file in sorted(_folder(package).rglob("*.py")):
            parts = file.relative_to(_folder(package)).with_suffix("").parts
            yield ".".join(["katlit", package, *(part for part in parts if part != "__init__")]), file


@cache
def _folder(package: str) -> Path:
    """Where a package of katlit lies; importing it is not needed for that."""
    spec = find_spec(f"katlit.{package}")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"katlit.{package}")
    return Path(next(iter(spec.submodule_search_locations)))


def _file_of(module: str) -> Path:
    _, package, *rest = module.split(".")
    place = _folder(package).joinpath(*rest)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _tree(file).body if isinstance(node, ast.ClassDef)}


def _names_imported(tree: ast.Module) -> dict[str, str]:
    """What a file imports of katlit's packages, and from where."""
    return {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").count(".") and node.module
        for alias in node.names
    }


def _source_of(name: str, file: Path) -> Path | None:
    """The file that defines what a file names; None where that is not katlit's, or no class."""
    if name in _classes(file):
        return file
    module = _names_imported(_tree(file)).get(name, "")
    return _source_of(name, _file_of(module)) if module.startswith("katlit.") else None


def _ancestors(name: str, file: Path) -> set[str]:
    """Names of a class's bases and of theirs, as far as those are katlit's."""
    found = set()
    for base in _classes(file)[name].bases:
        spelled = ast.unparse(base.value if isinstance(base, ast.Subscript) else base).rpartition(".")[2]
        source = _source_of(spelled, file)
        found |= {spelled} | (_ancestors(spelled, source) if source else set())
    return found
