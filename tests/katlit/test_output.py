from pathlib import Path

import pytest

from katlit.errors import UserError
from katlit.output import require_writable


def test_a_new_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    require_writable(tmp_path / "a/b", "key")
    assert list((tmp_path / "a/b").iterdir()) == []


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^trainer\.root: cannot write to '.*/file/x' \(Not a directory\)"):
        require_writable(tmp_path / "file/x", "trainer.root")


def test_a_remote_store_is_taken_on_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_writable("s3://bucket/x", "key")
    assert list(tmp_path.iterdir()) == []
