"""Settings files by name from any folder, their list and copies, and own classes in the working directory."""

import sys
from pathlib import Path

import pytest

import katlit.commands.plan.command
import katlit.commands.trainer
from katlit.cli import TRAINER_COMMANDS, main
from katlit.commands.configs import listing
from katlit.commands.settings_files import installed_names, settings_file, with_paths

CONFIGS = Path(__file__).parents[3] / "configs"
NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["stage/distill.yaml", "configs/stage/distill.yaml"])
def test_an_installed_file_is_found_unless_a_local_one_has_the_path(name: str, tmp_path: Path) -> None:
    assert settings_file(name).samefile(CONFIGS / "stage/distill.yaml")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("trainer: {}")
    assert settings_file(name).samefile(tmp_path / name)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["-c", "base.yaml"], ["-c", "{}"]),
        (["-c=base.yaml"], ["-c={}"]),
        (["-cbase.yaml"], ["-c{}"]),
        (["--config", "base.yaml"], ["--config", "{}"]),
        (["--config=base.yaml"], ["--config={}"]),
        (["fit", "--trainer.logger", "base.yaml"], ["fit", "--trainer.logger", "base.yaml"]),
    ],
)
def test_each_spelling_of_the_option_is_read(words: list[str], found: list[str]) -> None:
    path = settings_file("base.yaml")
    assert with_paths(words) == [word.format(path) for word in found]


@pytest.mark.parametrize("command", [*TRAINER_COMMANDS, "plan"])
def test_each_command_finds_them(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    cli = katlit.commands.plan.command.PlanCLI if command == "plan" else katlit.commands.trainer.KatCLI
    monkeypatch.setattr(cli, "__init__", lambda *_, args, **__: seen.extend(args))
    assert main([command, "-c", "strategy/cpu.yaml"]) == 0
    assert seen == [command, "-c", str(settings_file("strategy/cpu.yaml"))]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("stage/distil.yaml", "did you mean stage/distill.yaml or "),
        ("configs/stage/distil.yaml", "did you mean stage/distill.yaml or "),
        ("/somewhere/far/away/configs/stage/distil.yaml", "did you mean stage/distill.yaml or "),
        ("vllm.yaml", "rollout/vllm.yaml"),
        ("qwen.yaml", "backbone/qwen2.5-7b.yaml"),
        ("../conftest.py", "does not exist; `katlit configs`"),
        ("", "does not exist; `katlit configs`"),
    ],
)
def test_a_missing_file_is_one_line_with_those_of_like_names(
    name: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "-c", name, "-c", "base.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"katlit: error: settings file {name!r} does not exist; ")
    assert meant in error
    assert error.count("\n") == 1


def test_the_list_says_what_each_file_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == installed_names() == NAMES
    assert "\n".join(lines) + "\n" == listing()
    for line in lines:
        purpose = line.split(maxsplit=1)[1]
        assert len(purpose) > 15
        assert purpose[-1] in ".?"  # a first line of a comment that stands alone
        assert not purpose.startswith("#")


def test_copies_are_taken_instead(tmp_path: Path) -> None:
    assert main(["configs", "copy", "."]) == 0
    copies = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert copies == NAMES
    assert all((tmp_path / name).read_bytes() == (CONFIGS / name).read_bytes() for name in NAMES)
    assert settings_file("stage/distill.yaml").samefile(tmp_path / "stage/distill.yaml")


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        ("stage/step_srpo.yaml", "mine/stage/step_srpo.yaml"),
        ("strategy", "mine/strategy"),
        ("", "mine"),
    ],
)
def test_copying_leaves_all_as_it_is_where_something_is_in_the_way(
    taken: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine" / taken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("own")
    before = sorted(tmp_path.rglob("*"))
    assert main(["configs", "copy", "mine"]) == 2
    assert capsys.readouterr().err == f"katlit: error: {named} exists already; choose another folder\n"
    assert sorted(tmp_path.rglob("*")) == before
    assert path.read_text() == "own"


@pytest.mark.parametrize("first", ["/usr/bin", "", "{here}"])
def test_the_working_directory_comes_after_what_is_installed(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = first.format(here=tmp_path)
    monkeypatch.setattr(sys, "path", [script, "/installed"])
    monkeypatch.setattr(sys, "argv", ["katlit", "--help"])
    assert main() == 0
    kept = [script] if first == "/usr/bin" else []
    assert sys.path == [*kept, "/installed", str(tmp_path)]


def test_called_from_python_it_leaves_the_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/installed"])
    assert main(["--help"]) == 0
    assert sys.path == ["", "/installed"]
