"""The direction of the arrows between our packages, and the length of files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("katlit", "modules", "datamodules", "benchmarks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 300

# A layer is the longest prefix that matches; it may not import anything below the prefixes of its row.
HEAVY = ("vllm", "deepspeed", "mlflow", "reasoning_gym", "matplotlib", "peft")
TOP = (
    "katlit.callbacks", "katlit.cli", "katlit.trainer", "katlit.tracking", "katlit.strategies",
    "katlit.plan.command", "katlit.replay",
)  # fmt: skip
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "katlit": ("modules", "datamodules", "tests", *TOP, "katlit.report", "katlit.demo"),
    "katlit.kernels": ("modules", "datamodules", "tests", "katlit", "lightning", "transformers"),
    "katlit.losses": ("modules", "datamodules", "tests", "lightning", "katlit.backbone", *TOP),
    **dict.fromkeys(
        (*TOP, "katlit.module", "katlit.report", "katlit.demo"), ("modules", "datamodules", "tests")
    ),
    "modules": (
        "datamodules",
        "tests",
        "katlit.cli",
        "katlit.trainer",
        "katlit.callbacks",
        "vllm",
        "mlflow",
        "deepspeed",
    ),
    "datamodules": ("modules", "tests", "katlit.backbone", "katlit.losses", *TOP),
    "benchmarks": ("tests",),
}
# Only the interface of the engines, so that data can be built with any of them.
DATA_MAY_SEE = "katlit.rollout.engine"


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


def breaches(module: str, source: str) -> list[str]:
    """Imports that the layer of `module` must not have."""
    tree = ast.parse(source)
    layer = max((prefix for prefix in FORBIDDEN if below(module, prefix)), key=len)
    found = {name for name in imported(tree) for prefix in FORBIDDEN[layer] if below(name, prefix)}
    if layer == "datamodules":
        engines = {name for name in imported(tree) if name.startswith("katlit.rollout.")}
        found |= {name for name in engines if not below(name, DATA_MAY_SEE)}
    if layer == "katlit.kernels":
        found = {name for name in found if not below(name, "katlit.kernels")}
    found |= {n for n in imported(tree, module_level_only=True) for heavy in HEAVY if below(n, heavy)}
    return sorted(found)


def dotted(path: Path) -> str:
    """The module name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_files_are_found() -> None:
    assert {"katlit.cli", "katlit.batch"} <= set(map(dotted, FILES))


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_follow_the_layers(path: Path) -> None:
    assert breaches(dotted(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("katlit.losses.sft", "import lightning", "lightning"),
        ("katlit.losses.sft", "def f():\n    from katlit import backbone", "katlit.backbone"),
        ("katlit.kernels.ce", "from katlit.losses import sft", "katlit.losses"),
        ("katlit.protocol", "from katlit.callbacks.export import ExportModel", "katlit.callbacks.export"),
        ("katlit.trainer", "import modules.step_srpo", "modules.step_srpo"),
        ("modules.step_srpo", "from datamodules import PromptData", "datamodules"),
        ("modules.step_srpo", "def f():\n    import vllm", "vllm"),
        ("modules.step_srpo", "from katlit.callbacks import export", "katlit.callbacks"),
        ("datamodules.prompts", "from modules import StepSRPO", "modules"),
        ("datamodules.prompts", "from katlit.rollout.vllm import VLLMEngine", "katlit.rollout.vllm"),
        ("katlit.rollout.vllm", "import vllm", "vllm"),
    ],
)
def test_a_breach_is_seen(module: str, source: str, breach: str) -> None:
    assert breach in breaches(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("datamodules.prompts", "from katlit.rollout.engine import RolloutEngine"),
        ("katlit.rollout.vllm", "def f():\n    import vllm"),
        ("katlit.trainer", "from katlit.callbacks.track_config import TrackConfig"),
        ("katlit.kernels.ce", "import katlit.kernels.common\nimport triton"),
        ("katlit.losses.sft", "def f():\n    from katlit.kernels import ce"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert breaches(module, source) == []


@pytest.mark.parametrize("path", FILES + TEST_FILES, ids=dotted)
def test_no_file_is_long_without_a_reason(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if len(source.splitlines()) > MAX_LINES:
        reason = ast.get_docstring(ast.parse(source)) or ""
        assert "lines because" in reason, f"over {MAX_LINES} lines; its docstring lacks 'N lines because …'"
