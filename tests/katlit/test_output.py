import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from stat import S_IMODE
from types import SimpleNamespace
from typing import IO

import pytest
import torch
from safetensors.torch import save_file

from katlit.errors import UserError
from katlit.output import after_a_kill, naming_disk_faults, replacing, require_writable, scratch_folder


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


def test_a_scratch_folder_goes_and_so_does_what_a_killed_process_left(tmp_path: Path) -> None:
    killed = tmp_path / ".engine-1"
    killed.mkdir()
    (killed / ".lock").touch()
    with scratch_folder(tmp_path, ".engine-") as living:
        assert not killed.exists()
        with scratch_folder(tmp_path, ".engine-"):
            assert living.exists()  # its process lives
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_that_is_being_made_is_not_taken_for_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_file = fcntl.flock

    def while_another_starts(file: IO[bytes], how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock_file)
        with scratch_folder(tmp_path, ".engine-"):
            lock_file(file, how)

    monkeypatch.setattr(fcntl, "flock", while_another_starts)
    with scratch_folder(tmp_path, ".engine-") as living, scratch_folder(tmp_path, ".engine-"):
        assert (living / ".lock").exists()


def test_where_files_cannot_be_locked_a_scratch_folder_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: IO[bytes], how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch_folder(tmp_path, ".engine-") as living, scratch_folder(tmp_path, ".engine-"):
        assert living.is_dir()
    assert not living.exists()


def test_a_scratch_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    scratch = scratch_folder(tmp_path / "file", "x")
    with pytest.raises(UserError, match=r"file'.*choose another place"), scratch:
        pass


def test_a_fault_of_the_disk_is_named_whatever_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        with naming_disk_faults(tmp_path, "the.key"):
            raise RuntimeError("file write failed")

    with pytest.raises(RuntimeError, match="file write failed"):
        fail()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(UserError, match=r"the\.key: .*the disk is full.*make room there"):
        fail()


def test_a_full_disk_is_named_though_what_did_not_fit_is_gone_again(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"the\.key: .*the disk is full"),
        naming_disk_faults(tmp_path, "the.key"),
    ):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_who_may_read_a_file_follows_from_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "weights") as partial:
            save_file({"a": torch.zeros(1)}, partial)  # makes a file for its owner alone
    finally:
        os.umask(before)
    assert S_IMODE((tmp_path / "weights").stat().st_mode) == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


KILL = """
import os, pathlib, shutil, signal, sys
from katlit.output import replacing_directory
target, left = pathlib.Path(sys.argv[1]), int(sys.argv[2])

def counted(call):
    def wrapper(*words, **settings):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*words, **settings)
    return wrapper

with replacing_directory(target, "config.json") as new:
    (new / "config.json").write_text("new")
    pathlib.Path.rename, shutil.rmtree = counted(pathlib.Path.rename), counted(shutil.rmtree)
"""


@pytest.mark.parametrize(("calls", "kept"), [(1, "old"), (2, "old"), (3, "new")])
def test_a_kill_while_a_directory_is_replaced_leaves_one_of_both(
    calls: int, kept: str, tmp_path: Path
) -> None:
    """Before the old one is moved away, before the new one takes its place, and before the old one goes."""
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILL, str(target), str(calls)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) > 1
    after_a_kill(target, ["config.json"])
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "config.json").read_text() == kept


def test_what_was_moved_away_stays_where_something_else_is_in_its_place(tmp_path: Path) -> None:
    """Such as a file with which another process tries out whether it may write."""
    (tmp_path / ".model.replaced").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tried").touch()
    after_a_kill(tmp_path / "model", ["config.json"])
    assert (tmp_path / ".model.replaced").is_dir()
    (tmp_path / "model/tried").unlink()
    after_a_kill(tmp_path / "model", ["config.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
