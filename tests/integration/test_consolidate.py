"""What a strategy has split over two processes goes on, and validates the same, on one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tinymodel import tiny_backbone

ROOT = Path(__file__).parents[2]
WORKER = str(ROOT / "tests/stubs/commands_worker.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}/tests/stubs{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def katlit(directory: Path, *commands: list[str]) -> None:
    """Run commands one after the other in a process of their own."""
    file = directory / "commands.json"
    file.write_text(json.dumps(commands))
    done = subprocess.run(
        [sys.executable, WORKER, str(file)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"


def stage(
    command: str, directory: Path, start: Path, strategies: list[str], *words: str, data_ranks: int = 1
) -> list[str]:
    """The words for a cold start on ready-made batches, four micro-batches a step; makes its folder."""
    directory.mkdir()
    files = [f"-c=configs/{name}.yaml" for name in ("base", *strategies)]
    return [
        command, *files, "--model=katlit.modules.ColdStartSFT",
        f"--model.init_args.backbone.init_args.init_from={start}",
        "--model.init_args.optimization.learning_rate=0.01", "--data=fixedbatches.FixedBatches",
        f"--trainer.accumulate_grad_batches={4 // data_ranks}",
        "--trainer.logger=false", f"--trainer.default_root_dir={directory}",
        "--trainer.callbacks+=collect.Collect", f"--trainer.callbacks.path={directory}/log.jsonl", *words,
    ]  # fmt: skip


def logged(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "strategy",
    [
        "fsdp2",
        pytest.param("fsdp2_tp", marks=pytest.mark.soak),
        pytest.param("deepspeed_z1", marks=pytest.mark.soak),
        "deepspeed_z3",
    ],
)
def test_two_processes_become_one(tmp_path: Path, strategy: str) -> None:
    backbone = tiny_backbone(tmp_path / "made")
    backbone.materialize()
    backbone.export(start := tmp_path / "start")
    two, one = [f"strategy/{strategy}", "strategy/cpu"], ["strategy/single"]
    data_ranks = 1 if strategy == "fsdp2_tp" else 2
    fit = stage(
        "fit", tmp_path / "two", start, two, "--trainer.max_steps=3", "--checkpoint.every_n_steps=1",
        "--checkpoint.keep=null", f"--trainer.val_check_interval={4 // data_ranks}",
        "--trainer.check_val_every_n_epoch=null", data_ranks=data_ranks,
    )  # fmt: skip
    katlit(tmp_path, fit)
    split, whole = tmp_path / "two/checkpoints/step-00000001.ckpt", tmp_path / "whole.ckpt"
    assert split.is_dir()
    katlit(tmp_path, ["consolidate", f"--checkpoint={split}", f"--output={whole}"])
    katlit(
        tmp_path,
        stage("fit", tmp_path / "one", start, one, "--trainer.max_steps=3", f"--ckpt_path={whole}"),
        stage("validate", tmp_path / "validated", start, one, f"--ckpt_path={whole}"),
    )
    truth, resumed = logged(tmp_path / "two"), logged(tmp_path / "one")
    assert [row["step"] for row in resumed] == [2, 3]
    for row, expected in zip(resumed, truth[1:], strict=True):
        assert row["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-5)

    (row,) = logged(tmp_path / "validated")
    after_one_step = truth[1]["val/loss"]  # what is logged stays until the next validation
    assert row["val/loss"] == pytest.approx(after_one_step, rel=1e-5)
