"""Runs that another launcher than Lightning starts: torchrun on several nodes, SLURM."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killable import ROOT, STUBS, finish, fit, launch, on_two_processes, rows, start

STEPS = 5
STRATEGY = [*on_two_processes("ddp"), f"--trainer.max_steps={STEPS}"]
TWO_NODES = [*STRATEGY, "--trainer.devices=1", "--trainer.num_nodes=2"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes on one node, started by Lightning."""
    directory = tmp_path_factory.mktemp("one_node")
    finish(start(directory, *STRATEGY))
    return directory


def assert_same_metrics(directory: Path, other: Path) -> None:
    found, expected = rows(directory), rows(other)
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    for step, truth in expected.items():
        assert found[step] == pytest.approx(truth, rel=1e-5, abs=1e-5)


def test_torchrun_on_two_nodes(one_node: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    words = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *words, "-m", "katlit.cli"]
    nodes = [launch([*torchrun, *fit(tmp_path, *TWO_NODES)], {}) for _ in range(2)]
    for node in nodes:
        finish(node)
    assert_same_metrics(tmp_path, one_node)


def test_of_a_slurm_job_only_fit_has_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "katlit").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "katlit").chmod(0o755)
    environment = os.environ | {
        "PATH": os.pathsep.join([f"{STUBS}/slurm", str(tmp_path), os.environ["PATH"]]),
        "SLURM_STUB": str(tmp_path), "SLURM_NNODES": "1",
    }  # fmt: skip
    for command, said in (("fit", "fit -c a.yaml --ckpt_path=auto\n"), ("label", "label -c a.yaml\n")):
        job = [str(ROOT / "docs/slurm.sh"), command, "-c", "a.yaml"]
        assert subprocess.run(job, env=environment, capture_output=True, text=True).stdout == said


def test_a_slurm_job_that_is_stopped_is_requeued_and_goes_on(one_node: Path, tmp_path: Path) -> None:
    environment = {
        "PATH": os.pathsep.join([f"{STUBS}/slurm", str(Path(sys.executable).parent), os.environ["PATH"]]),
        "SLURM_STUB": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "katlit", "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NODELIST": "localhost",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    job = [str(ROOT / "docs/slurm.sh"), *fit(tmp_path, *TWO_NODES, "--checkpoint.every_n_steps=100")]

    run = launch(job, environment)
    while len(rows(tmp_path)) < 2:
        assert run.poll() is None, finish(run)
        time.sleep(0.01)
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGTERM)
    finish(run, 143)
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    assert len(rows(tmp_path)) < STEPS

    finish(launch(job, environment))
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    assert_same_metrics(tmp_path, one_node)
