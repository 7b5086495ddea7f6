"""Every strategy trains every stage as one process does, on the very settings files that users take."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tinymodel import QWEN, tiny_backbone
from torch.testing import assert_close

ROOT = Path(__file__).parents[2]
WORKER = str(ROOT / "tests/stubs/parity_worker.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}/tests/stubs"}
STRATEGIES = ["ddp", "fsdp2", "deepspeed_z1", "deepspeed_z2", "deepspeed_z3"]
STAGES = ["sft", "distill", "srpo"]
# A small scale: the distance of sorted logits has kinks, which tiny differences cross under large steps.
LORA = "--model.init_args.backbone.init_args.lora={rank: 4, alpha: 4.0}"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(directory: Path, *words: str, processes: int = 1) -> Path:
    """Train the three stages in `directory`."""
    for name, seed in (("start", 1), ("teacher", 2)):
        backbone = tiny_backbone(directory / name / "made", QWEN | {"tie_word_embeddings": True}, seed=seed)
        backbone.materialize()
        backbone.export(directory / name / "model")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher = torchrun if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, WORKER, str(directory), *words],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return directory


def logged(directory: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / stage / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=[(), (LORA,)], ids=["full", "lora"])
def trained(request) -> tuple[str, ...]:
    """Settings of what is trained: all weights, or adapters."""
    return request.param


@pytest.fixture(scope="module")
def alone(trained: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, each optimizer step one batch of all rows."""
    strategy = ["-c", str(ROOT / "configs/strategy/single.yaml"), "--trainer.accelerator=cpu"]
    return run(tmp_path_factory.mktemp("alone"), "merged", *strategy, *trained)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_that_accumulate_are_one_process(
    alone: Path, trained: tuple[str, ...], tmp_path: Path, strategy: str
) -> None:
    overlays = [f"-c={ROOT}/configs/strategy/{name}.yaml" for name in (strategy, "cpu")]
    two = run(tmp_path, "parts", *overlays, *trained, processes=2)
    for stage in STAGES:
        expected, found = logged(alone, stage), logged(two, stage)
        assert len(expected) == len(found) == 5
        for truth, row in zip(expected, found, strict=True):
            assert row["train/loss"] == pytest.approx(truth["train/loss"], rel=1e-4, abs=1e-6)
            assert row.get("uld/paired_share") == pytest.approx(truth.get("uld/paired_share"))
        for name in ("model.safetensors", "mtp.safetensors"):
            if (alone / stage / "model" / name).exists():
                truth, weights = (load_file(run / stage / "model" / name) for run in (alone, two))
                assert_close(weights, truth, rtol=0, atol=1e-4)
    assert (two / "distill/model/mtp.safetensors").is_file()
