"""`katlit help`: pages on commands, read from the sources, and on classes."""

import subprocess
import sys
from types import ModuleType

import pytest

import katlit.engines
import katlit.rewards
from katlit.cli import main
from katlit.commands.class_catalogue import KINDS, Kind, entries, paths_of
from katlit.commands.known_names import class_at
from katlit.commands.overview import COMMANDS, TRAINER_COMMANDS


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", TRAINER_COMMANDS)
def test_a_command_has_a_page_of_ours(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, command, "--help")
    assert said(capsys, "help", command) == text
    assert text.startswith(f"usage: katlit {command} -c FILE")
    for word in ("StepSRPO", "VLLMServer", "GRPO", "MathReward", "qwen2.5-7b", "katlit help trainer"):
        assert word in text
    assert len(text.splitlines()) < 120
    assert max(map(len, text.splitlines())) <= 120


def test_the_page_imports_nothing_heavy() -> None:
    script = (
        "import sys; from katlit.cli import main; status = main(['fit', '--help']); "
        "heavy = {'torch', 'lightning', 'transformers', 'mlflow', 'jsonargparse'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_what_the_sources_say_is_what_python_imports(kind: Kind) -> None:
    found = entries(kind)
    assert found
    for entry in found:
        owner = class_at(entry.path)
        assert owner is not None, entry.path
        assert entry.summary == (owner.__doc__ or "").partition("\n")[0]


@pytest.mark.parametrize(
    ("package", "base"),
    [(katlit.rewards, katlit.rewards.Reward), (katlit.engines, katlit.engines.RolloutEngine)],
)
def test_no_class_is_left_out(package: ModuleType, base: type) -> None:
    exported = {name: getattr(package, name) for name in package.__all__}
    wanted = {
        name
        for name, kind in exported.items()
        if isinstance(kind, type) and issubclass(kind, base) and kind is not base
    }
    listed = {entry.path.rpartition(".")[2] for kind in KINDS for entry in entries(kind)}
    assert wanted <= listed


def test_a_class_is_known_by_its_short_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "help", "StepSRPO")
    assert text.startswith("katlit.modules.StepSRPO\n")
    assert "  clip_high: float = 0.28\n      The ratio is clipped above 1 + clip_high.\n" in text
    assert "  backbone: Backbone  (required)\n" in text
    assert "  optimization: Optimization = Optimization(...)\n" in text
    assert said(capsys, "help", "katlit.modules.StepSRPO") == text


def test_settings_of_a_base_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "help", "TeacherThinking")
    lines = text.partition("settings:\n")[2].splitlines()
    names = [number for number, line in enumerate(lines) if line[2] != " "]
    assert {"think_on", "habit"} <= {lines[number].strip().partition(":")[0] for number in names}
    assert all(lines[number + 1].startswith("      ") for number in names)


def test_a_name_is_that_of_the_package_that_exports_it() -> None:
    assert paths_of("Optimization") == ["katlit.stage.Optimization"]
    assert paths_of("Columns") == ["katlit.datamodules.sources.columns.Columns"]
    assert paths_of("_Fields") == []


def test_other_commands_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "configs"]) == 0
    assert capsys.readouterr().out.startswith("usage: katlit configs")
    overview = said(capsys, "help")
    assert all(f"  {name} " in overview for name in COMMANDS)


@pytest.mark.parametrize(
    ("given", "named"), [("stepsrpo", "StepSRPO"), ("fitt", "fit"), ("Qqqq", "fit --help")]
)
def test_a_name_that_is_not_known(given: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", given]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
