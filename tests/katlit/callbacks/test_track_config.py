import subprocess
from pathlib import Path

import pytest

from katlit.callbacks.track_config import flatten, origin


def test_flatten() -> None:
    nested = {"a": {"b": 1, "c": [{"d": None}, "e"]}, "f": [], "g": {}, "h": "i"}
    assert flatten(nested) == {"a.b": 1, "a.c.0.d": None, "a.c.1": "e", "f": [], "g": {}, "h": "i"}


def test_origin_tells_commit_and_edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "git.dirty" not in origin()  # no repository
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    assert origin()["git.dirty"] == "false"
    assert len(origin()["mlflow.source.git.commit"]) == 40
    (tmp_path / "file").touch()
    assert origin()["git.dirty"] == "true"


def test_origin_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "mlflow.source.git.commit" not in origin()


def test_origin_hides_secrets_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/katlit", "fit", "--model.api_key=hunter2"])
    assert origin()["mlflow.source.name"] == "katlit fit --model.api_key=***"
