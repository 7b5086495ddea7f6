"""What `katlit consolidate` refuses; what it makes is tested on real strategies in tests/integration."""

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from katlit.cli import EXIT_USER_ERROR, main


def refusal(capsys: pytest.CaptureFixture[str], checkpoint: Path, output: Path) -> str:
    assert main(["consolidate", f"--checkpoint={checkpoint}", f"--output={output}"]) == EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_no_split_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no split checkpoint of FSDP2 or ZeRO" in refusal(capsys, tmp_path / "none", tmp_path / "whole")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "whole").write_text("mine")
    assert "exists; name another file" in refusal(capsys, tmp_path, tmp_path / "whole")
    assert (tmp_path / "whole").read_text() == "mine"


def test_a_checkpoint_of_zero_without_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "split").mkdir()
    (tmp_path / "split/latest").write_text("checkpoint")
    assert "parts of 0 ranks are there" in refusal(capsys, tmp_path / "split", tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # a single process can save as well
def test_objects_beside_the_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"state_dict": {"weight": torch.ones(2)}, "optimizer_0": {"state": {"a": torch.ones(2)}}}
    dcp.save(tensors, checkpoint_id=tmp_path / "split", no_dist=True)
    torch.save({"callbacks": {"mine": tmp_path}}, tmp_path / "split/meta.pt")
    refused = refusal(capsys, tmp_path / "split", tmp_path / "whole")
    assert f"{tmp_path}/split/meta.pt: holds objects of classes" in refused
