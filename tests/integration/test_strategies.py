"""Every strategy trains every stage as one process does, on the very settings files that users take.

Starting processes takes longer than what they train here, so each strategy is started once and trains all
that it is compared in.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file
from tinymodel import QWEN, QWEN3_MOE, tiny_backbone
from torch import Tensor
from torch.testing import assert_close

ROOT = Path(__file__).parents[2]
WORKER = str(ROOT / "tests/stubs/commands_worker.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}/tests/stubs{os.pathsep}{ROOT}"}
STRATEGIES = ("ddp", "fsdp2", "deepspeed_z1", "deepspeed_z2", "deepspeed_z3")
# ZeRO-3 parts all that they part, and is tried before every change.
RARER = ("deepspeed_z1", "deepspeed_z2")
BACKBONE = "--model.init_args.backbone.init_args"
SETTINGS = {
    "sft": ["--model=katlit.modules.ColdStartSFT"],
    "distill": ["--model=katlit.modules.DistillMTP", f"{BACKBONE}.mtp_depth=1"],
    "srpo": [
        "--model=katlit.modules.StepSRPO", "--model.init_args.kl_weight=0.1",
        "--model.init_args.aggregation={unit: sequence, streams: separate}",
    ],
}  # fmt: skip
# The distance of sorted probabilities has a kink wherever two are equal, and a rounding that crosses one
# changes the weights. So the teacher is sharp, which the student is not: they are seldom close. For the same
# reason the scale of LoRA's adapters is small.
SPREAD = {"start": 0.2, "teacher": 1.0}
LORA = f"{BACKBONE}.lora={{rank: 4, alpha: 4.0}}"
ROUTER = f"{BACKBONE}.router_loss_weight=0.1"
DEPTH = f"{BACKBONE}.depth={{layers: 3, train_only_new: true}}"
MIXED = "--trainer.precision=bf16-mixed"
CHECKPOINTING = f"{BACKBONE}.gradient_checkpointing=true"
PASSES = "--model.init_args.pass_tokens=16"  # a row each; the ranks' micro-batches have 1 to 3
TEACHER, REFERENCE = "--model.init_args.teacher_placement", "--model.init_args.reference_placement"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Job(NamedTuple):
    """What is trained by a strategy on two processes, and by one process."""

    stage: str
    strategies: tuple[str, ...] = STRATEGIES
    both: tuple[str, ...] = ()  # settings of both sides
    two: tuple[str, ...] = ()  # more of the two processes, which must change nothing
    truth: str | None = None  # the job whose single process it is compared with, if not its own
    experts: bool = False


JOBS = {
    **{f"full-{stage}": Job(stage, (*STRATEGIES, "fsdp2_tp")) for stage in SETTINGS},
    "full-srpo": Job("srpo", (*STRATEGIES, "fsdp2_tp"), two=(PASSES,)),
    # What stage 2 computes is a part of stage 1.
    **{f"lora-{stage}": Job(stage, both=(LORA,)) for stage in ("distill", "srpo")},
    "experts": Job(
        "distill", ("ddp", "fsdp2", "deepspeed_z3"), (ROUTER,), (CHECKPOINTING,), experts=True
    ),
    "experts-srpo": Job(
        "srpo", ("ddp", "fsdp2", "deepspeed_z3"), (ROUTER,), (CHECKPOINTING, PASSES), experts=True
    ),
    "mixed": Job("distill", both=(MIXED,), two=(CHECKPOINTING,)),
    "deeper": Job("distill", ("fsdp2", "deepspeed_z2", "deepspeed_z3"), (DEPTH,)),
}  # fmt: skip
# Where the teacher and the reference of stage 3 are.
FROZEN = {"ddp": "cpu", "fsdp2": "sharded", "fsdp2_tp": "sharded", "deepspeed_z3": "sharded"}
JOBS |= {
    f"frozen-{stage}-{strategy}": Job(
        stage, (strategy,), two=(f"{setting}={placement}", CHECKPOINTING), truth=f"full-{stage}"
    )
    for stage, setting in (("distill", TEACHER), ("srpo", REFERENCE))
    for strategy, placement in FROZEN.items()
}


def by_strategy(strategy: str, *values: str) -> Any:
    """A case of a strategy; of a rarer one, by hand."""
    marks = [pytest.mark.soak] if strategy in RARER else []
    return pytest.param(*values, strategy, id="-".join((strategy, *values)), marks=marks)


EXACT = [
    by_strategy(strategy, name)
    for name, job in JOBS.items()
    for strategy in job.strategies
    if name != "mixed"
]


def models(directory: Path) -> None:
    """What is trained, and its teacher; with experts too."""
    for kind, config in (("dense", QWEN), ("experts", QWEN3_MOE)):
        for seed, (name, spread) in enumerate(SPREAD.items(), start=1):
            made = config | {"tie_word_embeddings": True, "initializer_range": spread}
            backbone = tiny_backbone(directory / "made" / kind / name, made, seed=seed)
            backbone.materialize()
            backbone.export(directory / kind / name)


def command(name: str, directory: Path, words: Iterable[str], parts: int) -> list[str]:
    """The words that train a job for five steps of so many batches a process; one has the rows of all."""
    job = JOBS[name]
    start, folder = directory.parent / ("experts" if job.experts else "dense"), directory / name
    folder.mkdir(parents=True)
    teacher = [f"--model.init_args.teacher={start}/teacher"] if job.stage == "distill" else []
    return [
        "fit", "-c", f"{ROOT}/configs/base.yaml", *SETTINGS[job.stage], *teacher,
        f"{BACKBONE}.init_from={start}/start", "--model.init_args.optimization.learning_rate=0.01",
        "--data=fixedbatches.FixedBatches", f"--data.stage={job.stage}", f"--data.merged={parts == 1}",
        "--trainer.max_steps=5", "--trainer.logger=false", f"--trainer.default_root_dir={folder}",
        f"--trainer.accumulate_grad_batches={parts}",
        "--trainer.callbacks+=collect.Collect", f"--trainer.callbacks.path={folder}/log.jsonl",
        "--trainer.callbacks+=katlit.callbacks.ExportModel",
        f"--trainer.callbacks.directory={folder}/model", *words, *job.both,
    ]  # fmt: skip


def run(directory: Path, commands: list[list[str]], processes: int) -> subprocess.CompletedProcess[str]:
    (directory / "commands.json").write_text(json.dumps(commands))
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *(torchrun if processes > 1 else []), WORKER, str(directory / "commands.json")],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of what a strategy has trained on two processes, or `single` on one."""
    root = tmp_path_factory.mktemp("strategies")
    models(root)

    @cache
    def train(strategy: str) -> subprocess.CompletedProcess[str]:
        if strategy == "single":
            words = [f"-c={ROOT}/configs/strategy/single.yaml", "--trainer.accelerator=cpu"]
            commands = [
                # The router's loss depends on how tokens fall into parts, so here they are the same.
                command(name, root / strategy, words, parts=4 if job.experts else 1)
                for name, job in JOBS.items()
                if job.truth is None
            ]
            return run(root / strategy, commands, 1)
        words = [f"-c={ROOT}/configs/strategy/{name}.yaml" for name in (strategy, "cpu")]
        # Where they share the layers, the rest is on a mesh of its own, and both see all parts.
        parts = 4 if strategy == "fsdp2_tp" else 2
        commands = [
            command(name, root / strategy, [*words, *job.two], parts)
            for name, job in JOBS.items()
            if strategy in job.strategies
        ]
        return run(root / strategy, commands, 2)

    def folder(strategy: str) -> Path:
        done = train(strategy)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        return root / strategy

    return folder


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def exported(folder: Path) -> dict[str, Tensor]:
    """All weights of all files."""
    files = {str(file.relative_to(folder / "model")): file for file in folder.glob("model/**/*.safetensors")}
    return {f"{file} {name}": value for file in files for name, value in load_file(files[file]).items()}


@pytest.mark.parametrize(("name", "strategy"), EXACT)
def test_two_processes_are_one_process(trained: Callable[[str], Path], name: str, strategy: str) -> None:
    job = JOBS[name]
    two, alone = trained(strategy) / name, trained("single") / (job.truth or name)
    expected, found = logged(alone), logged(two)
    assert len(expected) == len(found) == 5
    logs = ["train/loss"]
    if job.experts:
        logs += ["train/router_loss", "router/max_load", "router/idle_experts"]
    for truth, row in zip(expected, found, strict=True):
        assert row.get("uld/paired_share") == pytest.approx(truth.get("uld/paired_share"))
        assert [row[log] for log in logs] == pytest.approx([truth[log] for log in logs], rel=1e-4, abs=1e-6)
    for truth, row in zip(expected[:4], found, strict=False):
        for log in ("train/gradient_norm", "train/learning_rate"):
            assert row[log] == pytest.approx(truth[log], rel=2e-3)
    weights = exported(two)
    # Adam enlarges rounding where a gradient is nearly zero; one weight of 1,536 was 1.2e-4 off.
    assert_close(weights, exported(alone), rtol=0, atol=2e-4)
    files = {key.split()[0] for key in weights}
    assert files == {"model.safetensors"} | ({"mtp/model.safetensors"} if job.stage == "distill" else set())


@pytest.mark.parametrize("strategy", JOBS["experts"].strategies)
def test_the_router_of_experts_is_trained(trained: Callable[[str], Path], strategy: str) -> None:
    gate = "model.safetensors model.layers.0.mlp.gate.weight"
    two = trained(strategy)
    start = load_file(two.parent / "experts/start/model.safetensors")["model.layers.0.mlp.gate.weight"]
    assert (exported(two / "experts")[gate] - start).abs().max() > 1e-3


@pytest.mark.parametrize("stage", ["distill", "srpo"])
@pytest.mark.parametrize("strategy", FROZEN)
def test_frozen_models_are_in_pieces(trained: Callable[[str], Path], strategy: str, stage: str) -> None:
    folders = [
        trained("single") / f"full-{stage}",
        trained(strategy) / f"frozen-{stage}-{strategy}",
    ]
    (whole,), (half,) = ({row["frozen_bytes"] for row in logged(folder)} for folder in folders)
    assert half == pytest.approx(whole / 2, rel=0.01)  # of a table of odd length one has a row more


@pytest.mark.parametrize("strategy", [by_strategy(strategy) for strategy in STRATEGIES])
def test_mixed_precision_with_checkpointing_means_the_same(
    trained: Callable[[str], Path], strategy: str
) -> None:
    expected, found = (logged(trained(name) / "mixed") for name in ("single", strategy))
    assert len(expected) == len(found) == 5
    for truth, row in zip(expected, found, strict=True):
        # bfloat16 rounds by up to 0.4 %; Adam's first steps are as large where a gradient is mere rounding.
        assert row["train/loss"] == pytest.approx(truth["train/loss"], rel=1e-2)
        assert truth["master_bits"] == row["master_bits"] == 32


@pytest.mark.parametrize("strategy", [by_strategy(strategy) for strategy in JOBS["deeper"].strategies])
def test_new_layers_alone_are_trained(trained: Callable[[str], Path], strategy: str) -> None:
    two = trained(strategy)
    start, weights = (
        load_file(folder / "model.safetensors")
        for folder in (two.parent / "dense/start", two / "deeper/model")
    )
    for name, value in start.items():  # of a table, the rows that were there
        assert_close(weights[name][: len(value)], value, rtol=0, atol=0)
    new = {name: value for name, value in weights.items() if ".layers.2." in name}
    assert new
    for name, value in new.items():
        assert (value != start[name.replace(".layers.2.", ".layers.1.")]).any()
