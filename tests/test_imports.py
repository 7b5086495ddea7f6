"""The layers of the house, the names that YAML and docs may use, and the length of files."""

import ast
import importlib
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("katlit", "modules", "datamodules", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 300

# Lowest first. A file imports from its own room, a file or folder below `katlit`, and from lower layers.
LAYERS = [
    {"errors", "batch"},
    {"kernels"},
    {"text", "packing", "output", "losses", "progress"},
    {"advantages", "parallel", "metrics", "rewards"},
    {"model", "tracking"},
    {"engines", "teacher"},
    {"stage", "rollout"},
    {"modules", "datamodules"},
    {"callbacks"},
    {"commands"},
    {"cli", "factory"},
    {"forking"},
]
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
# Imported inside functions only, so that `katlit --help` is quick.
HEAVY = ("vllm", "deepspeed", "mlflow", "reasoning_gym", "matplotlib", "peft")
# Math knows no Lightning, and kernels know no models either.
PURE = dict.fromkeys(("losses", "advantages"), ("lightning",)) | {"kernels": ("lightning", "transformers")}
# Where classes are named: settings, docs, and what error messages and docstrings recommend.
NAMING = sorted(
    path
    for pattern in ("configs/**/*.yaml", "assets/*.yaml", "tests/stubs/*.yaml", "docs/*.md", "*.md")
    for path in ROOT.glob(pattern)
    if path.name not in ("CHANGELOG.md", "CONTRIBUTING.md")
)
CLASS_PATH = re.compile(r"\b(?:katlit|modules|datamodules)(?:\.[a-z_0-9]+)*\.[A-Z]\w+")


parsed = cache(ast.parse)


def imported(tree: ast.AST, *, module_level_only: bool = False) -> set[str]:
    """Full names of all imports: `from a import b` counts as `a` and as `a.b`."""
    names: set[str] = set()
    for node in tree.body if module_level_only and isinstance(tree, ast.Module) else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "."} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def below(name: str, prefix: str) -> bool:
    """Whether a module is the prefix or lies below it."""
    return name == prefix or name.startswith(f"{prefix}.")


def room_of(module: str) -> str | None:
    """The file or folder below `katlit` that a module lies in; None for all other modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "katlit" and len(parts) > 1 else None


def breaches(module: str, source: str) -> list[str]:
    """Imports that the room of `module` must not have."""
    tree = parsed(source)
    own = room_of(module)
    names = imported(tree)
    found = {name for name in names if below(name, "tests")}
    if own is not None:
        found |= {
            name for name in names if (room := room_of(name)) not in (None, own) and not lower(room, own)
        }
        found |= {name for name in names for banned in PURE.get(own, ()) if below(name, banned)}
    found |= {n for n in imported(tree, module_level_only=True) for heavy in HEAVY if below(n, heavy)}
    return sorted(found)


def lower(room: str, own: str) -> bool:
    """Whether a room lies below another one; a room that no layer has is an error."""
    return LAYER_OF[room] < LAYER_OF[own]


def dotted(path: Path) -> str:
    """The name that a file is imported by: `modules` and `datamodules` are installed below `katlit`."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return f"katlit.{name}" if below(name, "modules") or below(name, "datamodules") else name


def class_paths(text: str) -> set[str]:
    """What a text names by its full path, among our own classes."""
    return set(CLASS_PATH.findall(text))


def is_a_lasting_name(path: str) -> bool:
    """Whether a class is named by the package that exports it."""
    package, _, name = path.rpartition(".")
    if not package.startswith("katlit."):
        return False
    module = importlib.import_module(package)
    return hasattr(module, "__path__") and name in getattr(module, "__all__", ())


def test_the_files_are_found() -> None:
    assert {"katlit.cli", "katlit.batch", "katlit.modules.step_srpo"} <= set(map(dotted, FILES))


def test_every_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = sum((extras[extra] for extra in extras if extra != "dev"), project["dependencies"])
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    installed = packages_distributions()
    sources = [path for path in FILES if not path.is_relative_to(ROOT / "benchmarks")]
    names = {name for path in sources for name in imported(parsed(path.read_text("utf-8")))}
    foreign = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"katlit"}
    assert "torch" in foreign
    brought = {name: {canonicalize_name(each) for each in installed.get(name, [name])} for name in foreign}
    assert {name for name in foreign if not declared & brought[name]} == set()


def test_each_room_has_its_layer() -> None:
    rooms = {room for path in FILES if (room := room_of(dotted(path)))}
    assert rooms == set(LAYER_OF)
    assert len(LAYER_OF) == sum(map(len, LAYERS))


def test_imports_follow_the_layers() -> None:
    found = {str(path): breaches(dotted(path), path.read_text(encoding="utf-8")) for path in FILES}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("katlit.losses.sft", "import lightning", "lightning"),
        ("katlit.losses.sft", "def f():\n    from katlit import model", "katlit.model"),
        ("katlit.kernels.ce", "from katlit.losses import sft", "katlit.losses"),
        ("katlit.text.protocol", "from katlit.losses import sft", "katlit.losses"),
        ("katlit.text.protocol", "from katlit.callbacks import ExportModel", "katlit.callbacks"),
        ("katlit.commands.trainer", "from katlit.cli import main", "katlit.cli"),
        ("katlit.engines.hf", "from katlit.rollout.types import Rollout", "katlit.rollout.types"),
        ("katlit.modules.step_srpo", "from katlit.datamodules import PromptData", "katlit.datamodules"),
        ("katlit.modules.step_srpo", "import vllm", "vllm"),
        ("katlit.modules.step_srpo", "from katlit.callbacks import ExportModel", "katlit.callbacks"),
        ("katlit.datamodules.prompts", "from katlit.modules import StepSRPO", "katlit.modules"),
        ("katlit.engines.vllm.engine", "import vllm", "vllm"),
        ("benchmarks.mtp", "from tests.stubs import tinymodel", "tests.stubs"),
    ],
)
def test_a_breach_is_seen(module: str, source: str, breach: str) -> None:
    assert breach in breaches(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("katlit.datamodules.prompts", "from katlit.engines import RolloutEngine"),
        ("katlit.engines.vllm.engine", "def f():\n    import vllm"),
        ("katlit.commands.trainer", "from katlit.callbacks.track_config import TrackConfig"),
        ("katlit.kernels.ce", "import katlit.kernels.common\nimport triton"),
        ("katlit.losses.sft", "def f():\n    from katlit.kernels import ce"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert breaches(module, source) == []


@pytest.mark.parametrize("path", NAMING, ids=lambda path: str(path.relative_to(ROOT)))
def test_classes_are_named_by_their_package(path: Path) -> None:
    named = class_paths(path.read_text(encoding="utf-8"))
    assert {name for name in named if not is_a_lasting_name(name)} == set()


def test_words_of_the_code_name_classes_by_their_package() -> None:
    named = {
        (name, str(path))
        for path in FILES
        for node in ast.walk(parsed(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for name in class_paths(node.value)
        if room_of(name) in FACES
    }
    assert {(name, path) for name, path in named if not is_a_lasting_name(name)} == set()


# Rooms whose classes users name.
FACES = {"advantages", "callbacks", "datamodules", "engines", "modules", "parallel", "rewards", "rollout"}
FACES |= {"tracking"}


@pytest.mark.parametrize(
    ("name", "lasts"),
    [
        ("katlit.callbacks.RolloutSampler", True),
        ("katlit.callbacks.rollout.sampler.RolloutSampler", False),
        ("katlit.engines.VLLMEngine", True),
        ("modules.StepSRPO", False),
        ("katlit.modules.StepSRPO", True),
        ("katlit.engines.Nothing", False),
    ],
)
def test_a_name_that_lasts(name: str, lasts: bool) -> None:
    assert class_paths(f"class_path: {name}\n") == {name}
    assert is_a_lasting_name(name) is lasts


def test_what_docstrings_say_of_an_argument_names_its_subject() -> None:
    """`seed: Seed of the bootstrap.`, not `seed: Of the bootstrap.`"""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    assert [
        (str(path), line)
        for path in FILES
        for node in ast.walk(parsed(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds)
        for line in re.findall(r"^ +\w+: (?:Of|That of) .*", ast.get_docstring(node) or "", re.M)
    ] == []


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {dotted(path) for path in FILES if path.name == "__init__.py"}
    assert set(settings["packages"]) == packages | {"katlit.configs"}


def test_no_file_is_long_without_a_reason() -> None:
    sources = {str(path): path.read_text(encoding="utf-8") for path in FILES + TEST_FILES}
    long = [path for path, source in sources.items() if len(source.splitlines()) > MAX_LINES]
    assert [
        path for path in long if "lines because" not in (ast.get_docstring(parsed(sources[path])) or "")
    ] == []
