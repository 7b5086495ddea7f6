"""Every strategy trains every stage as one process does, on the very settings files that users take."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tinymodel import QWEN, QWEN3_MOE, tiny_backbone
from torch.testing import assert_close

ROOT = Path(__file__).parents[2]
WORKER = str(ROOT / "tests/stubs/parity_worker.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}/tests/stubs{os.pathsep}{ROOT}"}
STRATEGIES = ["ddp", "fsdp2", "deepspeed_z1", "deepspeed_z2", "deepspeed_z3"]
STAGES = ["sft", "distill", "srpo"]
# The distance of sorted probabilities has a kink wherever two are equal, and a rounding that crosses one
# changes the weights. So the teacher is sharp, which the student is not: they are seldom close.
# And the adapters' scale is small.
TEACHER_SPREAD = 1.0
LORA = "--model.init_args.backbone.init_args.lora={rank: 4, alpha: 4.0}"
SINGLE = [f"-c={ROOT}/configs/strategy/single.yaml", "--trainer.accelerator=cpu"]
# The router's loss depends on how tokens fall into micro-batches, so one process accumulates the same ones.
EXPERTS: dict[str, Any] = {"config": QWEN3_MOE, "stages": ["distill"]}
ROUTER = "--model.init_args.backbone.init_args.router_loss_weight=0.1"
DEPTH = "--model.init_args.backbone.init_args.depth={layers: 3, train_only_new: true}"
MIXED = "--trainer.precision=bf16-mixed"
CHECKPOINTING = "--model.init_args.backbone.init_args.gradient_checkpointing=true"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(
    directory: Path, batches: str, *words: str, processes: int = 1,
    config: dict[str, Any] = QWEN, stages: Sequence[str] = STAGES,
) -> Path:  # fmt: skip
    """Train the stages in `directory`."""
    for name, seed, spread in (("start", 1, 0.2), ("teacher", 2, TEACHER_SPREAD)):
        made = config | {"tie_word_embeddings": True, "initializer_range": spread}
        backbone = tiny_backbone(directory / name / "made", made, seed=seed)
        backbone.materialize()
        backbone.export(directory / name / "model")
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launcher = torchrun if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, WORKER, str(directory), batches, ",".join(stages), *words],
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
    return run(tmp_path_factory.mktemp("alone"), "merged", *SINGLE, *trained)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_that_accumulate_are_one_process(
    alone: Path, trained: tuple[str, ...], tmp_path: Path, strategy: str
) -> None:
    two = run(tmp_path, "parts", *overlays(strategy), *trained, processes=2)
    for stage in STAGES:
        assert_same(two, alone, stage, ["train/loss"])
    assert (two / "distill/model/mtp/model.safetensors").is_file()


def overlays(strategy: str) -> list[str]:
    return [f"-c={ROOT}/configs/strategy/{name}.yaml" for name in (strategy, "cpu")]


def assert_same(two: Path, alone: Path, stage: str, logs: list[str]) -> None:
    """The same values logged in each step, the same weights at the end."""
    expected, found = logged(alone, stage), logged(two, stage)
    assert len(expected) == len(found) == 5
    for truth, row in zip(expected, found, strict=True):
        assert row.get("uld/paired_share") == pytest.approx(truth.get("uld/paired_share"))
        for name in logs:
            assert row[name] == pytest.approx(truth[name], rel=1e-4, abs=1e-6)
    for name in ("model.safetensors", "mtp/model.safetensors"):
        if (alone / stage / "model" / name).exists():
            truth, weights = (load_file(run / stage / "model" / name) for run in (alone, two))
            assert_close(weights, truth, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def experts_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process that accumulates four micro-batches."""
    return run(tmp_path_factory.mktemp("experts"), "parts", *SINGLE, ROUTER, **EXPERTS)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "deepspeed_z3"])
def test_experts_on_two_processes_are_those_of_one(
    experts_alone: Path, tmp_path: Path, strategy: str
) -> None:
    two = run(tmp_path, "parts", *overlays(strategy), ROUTER, CHECKPOINTING, processes=2, **EXPERTS)
    logs = ["train/loss", "train/router_loss", "router/max_load", "router/idle_experts"]
    assert_same(two, experts_alone, "distill", logs)
    weights = load_file(two / "distill/model/model.safetensors")
    start = load_file(two / "start/model/model.safetensors")
    assert (
        weights["model.layers.0.mlp.gate.weight"] - start["model.layers.0.mlp.gate.weight"]
    ).abs().max() > 1e-3


@pytest.mark.parametrize("trained", [()], ids=["full"], indirect=True)
@pytest.mark.parametrize(
    ("strategy", "placement"), [("fsdp2", "sharded"), ("ddp", "cpu"), ("deepspeed_z3", "sharded")]
)
def test_frozen_models_in_pieces_change_nothing(
    alone: Path, tmp_path: Path, strategy: str, placement: str
) -> None:
    for stage, name in (("distill", "teacher_placement"), ("srpo", "reference_placement")):
        setting = f"--model.init_args.{name}={placement}"
        two = run(tmp_path, "parts", *overlays(strategy), setting, CHECKPOINTING, processes=2, stages=[stage])
        assert_same(two, alone, stage, ["train/loss"])
        (whole,), (half,) = ({row["frozen_bytes"] for row in logged(each, stage)} for each in (alone, two))
        assert half == pytest.approx(whole / 2, rel=0.01)  # of a table of odd length one has a row more


@pytest.fixture(scope="module")
def alone_mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("mixed"), "merged", *SINGLE, MIXED, stages=["distill"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mixed_precision_with_checkpointing_means_the_same(
    alone_mixed: Path, tmp_path: Path, strategy: str
) -> None:
    words = [*overlays(strategy), MIXED, CHECKPOINTING]
    two = run(tmp_path, "parts", *words, processes=2, stages=["distill"])
    expected, found = logged(alone_mixed, "distill"), logged(two, "distill")
    for truth, row in zip(expected, found, strict=True):
        # bfloat16 rounds by up to 0.4 %; Adam's first steps are as large where a gradient is mere rounding.
        assert row["train/loss"] == pytest.approx(truth["train/loss"], rel=1e-2)
        assert truth["master_bits"] == row["master_bits"] == 32


@pytest.mark.parametrize("trained", [()], ids=["full"], indirect=True)
def test_two_processes_that_share_the_layers_are_one_process(alone: Path, tmp_path: Path) -> None:
    """Both see all four micro-batches of a step; embedding, norms and head are on a mesh of their own."""
    whole_steps = "--trainer.accumulate_grad_batches=4"
    two = run(tmp_path, "parts", *overlays("fsdp2_tp"), whole_steps, processes=2)
    for stage in STAGES:
        assert_same(two, alone, stage, ["train/loss"])


@pytest.fixture(scope="module")
def deeper_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("deeper"), "merged", *SINGLE, DEPTH, stages=["distill"])


@pytest.mark.parametrize("strategy", ["fsdp2", "deepspeed_z2", "deepspeed_z3"])
def test_new_layers_alone_are_trained_as_by_one_process(
    deeper_alone: Path, tmp_path: Path, strategy: str
) -> None:
    two = run(tmp_path, "parts", *overlays(strategy), DEPTH, processes=2, stages=["distill"])
    assert_same(two, deeper_alone, "distill", ["train/loss"])
    start, weights = (
        load_file(folder / "model/model.safetensors") for folder in (two / "start", two / "distill")
    )
    for name, value in start.items():  # of a table, the rows that were there
        assert_close(weights[name][: len(value)], value, rtol=0, atol=0)
    new = {name: value for name, value in weights.items() if ".layers.2." in name}
    assert new
    for name, value in new.items():
        assert (value != start[name.replace(".layers.2.", ".layers.1.")]).any()
