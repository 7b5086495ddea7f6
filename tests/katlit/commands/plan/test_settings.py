"""What is planned does not depend on the name by which settings know a class."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from tinymodel import QWEN, write_tokenizer

from katlit.cli import main
from katlit.commands.plan.memory import LIBRARIES, Job, plan
from katlit.commands.plan.report import render, table
from katlit.commands.plan.settings import Overrides, read_job, read_split
from katlit.commands.plan.states import Split
from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.modules import StepSRPO
from katlit.stage.optimization import Optimization

MEMORY = 10**9
HF = {"batch_size": 2, "max_context": 32, "dtype": "bfloat16"}
VLLM = {"max_context": 32, "options": Namespace(kv_cache_gib=0.01)}
HF_NAMES = ["katlit.engines.HFEngine", "katlit.engines.hf.HFEngine", "derived.DerivedHF"]
VLLM_NAMES = ["katlit.engines.VLLMEngine", "katlit.engines.vllm.engine.VLLMEngine", "derived.DerivedVLLM"]
SAMPLERS = [
    "katlit.callbacks.RolloutSampler",
    "katlit.callbacks.rollout.sampler.RolloutSampler",
    "derived.DerivedSampler",
]
ZERO = {"stage": 2, "offload_optimizer": True, "offload_parameters": False, "bucket_elements": 100}


def named(class_path: str, **arguments: Any) -> Namespace:
    return Namespace(class_path=class_path, init_args=Namespace(**arguments))


def settings(engine: Namespace | None, sampler: str = SAMPLERS[0]) -> Namespace:
    """Those of a run, parsed, as far as they are read."""
    given = {"samples": 2, "row_tokens": 16} | ({} if engine is None else {"engine": engine})
    callbacks = [named("katlit.callbacks.ModeWatch"), named(sampler, **given)]
    trainer = Namespace(devices=1, num_nodes=1, strategy="auto", precision=None, callbacks=callbacks)
    return Namespace(trainer=trainer, data=Namespace(init_args=Namespace(batch_size=4)))


def test_a_single_callback_need_be_no_list(stage: StepSRPO) -> None:
    given = settings(named(HF_NAMES[0], **HF))
    in_a_list = render(read_job(stage, given, Overrides(MEMORY)))
    given.trainer.callbacks = given.trainer.callbacks[1]
    assert render(read_job(stage, given, Overrides(MEMORY))) == in_a_list


def test_a_batch_of_nothing_is_not_planned(stage: StepSRPO) -> None:
    given = settings(named(HF_NAMES[0], **HF))
    given.data.init_args.batch_size = 0
    with pytest.raises(UserError, match=r"data.init_args.batch_size: 0; give at least 1"):
        read_job(stage, given, Overrides(MEMORY))


def test_a_batch_of_no_tokens_is_named_by_its_own_key(stage: StepSRPO) -> None:
    given = settings(None)
    given.trainer.callbacks = []
    given.data = Namespace(init_args=Namespace(batch_tokens=0))  # as of WorkedData, without `batches`
    with pytest.raises(UserError, match=r"^data.init_args.batch_tokens: 0; give at least 1$"):
        read_job(stage, given, Overrides(MEMORY))


@pytest.mark.parametrize("samples", [0, -2])
def test_rollouts_of_no_samples_are_not_planned(stage: StepSRPO, samples: int) -> None:
    given = settings(named(HF_NAMES[0], **HF))
    given.trainer.callbacks[1].init_args.samples = samples
    with pytest.raises(UserError, match=rf"trainer.callbacks.samples: {samples}; give at least 1"):
        read_job(stage, given, Overrides(MEMORY))


@pytest.mark.parametrize("pass_tokens", [0, -1])
def test_passes_of_no_tokens_are_refused_by_the_stage(
    pass_tokens: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = written(tmp_path, {"class_path": HF_NAMES[0], "init_args": HF})
    assert main(["plan", "-c", run, "--memory=80", f"--model.init_args.pass_tokens={pass_tokens}"]) == 2
    assert f"model.init_args.pass_tokens: {pass_tokens}; give at least 1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def stage() -> StepSRPO:
    return StepSRPO(Backbone(config=QWEN | {"vocab_size": 100}))


@pytest.fixture
def job(stage: StepSRPO) -> Callable[..., Job]:
    return lambda *what: read_job(stage, settings(*what), Overrides(MEMORY, on_gpu=True))


@pytest.mark.parametrize(("names", "arguments"), [(HF_NAMES, HF), (VLLM_NAMES, VLLM)], ids=["hf", "vllm"])
def test_the_plan_is_the_same_by_every_name_of_an_engine(
    names: list[str], arguments: dict[str, Any], job: Callable[..., Job]
) -> None:
    shown = {render(job(named(name, **arguments))) for name in names}
    shown |= {render(job(named(names[0], **arguments), sampler)) for sampler in SAMPLERS}
    (text,) = shown
    assert "  rollout engine in process" in text


def test_a_users_own_engine_is_asked(job: Callable[..., Job]) -> None:
    found = job(named("derived.Speaking", share=0.25))
    assert found.engine == MEMORY // 4 + found.shape.parameters
    assert found.batch.tokens == 4 * 2 * 64  # its own context
    assert "238.4 MiB  rollout engine in process" in render(found)


def test_a_kahan_sum_is_counted() -> None:
    """Three numbers of two bytes for a weight: two moments, and what it is owed."""
    given = settings(named(HF_NAMES[0], **HF))
    given.trainer.precision = "bf16-true"
    optimizers = []
    for chosen in (Optimization(), Optimization(kahan_sum=True)):
        stage = StepSRPO(Backbone(config=QWEN | {"vocab_size": 100}), optimization=chosen)
        optimizers.append(plan(read_job(stage, given, Overrides(MEMORY))).optimizer)
    assert optimizers[1] == 1.5 * optimizers[0] > 0


def test_an_engine_without_an_answer_is_named(job: Callable[..., Job]) -> None:
    found = job(named("derived.Silent"))
    line = "     unknown  rollout engine Silent; its method `memory` can say"
    assert line in render(found).splitlines()
    assert render(found).endswith("of 953.7 MiB, Silent not counted")
    assert table(found, [2]).splitlines()[-2:] == ["", line]


def test_a_server_takes_nothing(job: Callable[..., Job]) -> None:
    found = job(named("katlit.engines.VLLMServer", max_context=64))
    assert "engine" not in render(found) + table(found, [2])


def test_a_sampler_that_hides_its_engine_is_refused(job: Callable[..., Job]) -> None:
    with pytest.raises(UserError, match=r"trainer.callbacks: derived.FixedSampler has no setting engine"):
        job(None, "derived.FixedSampler")


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (slice(2), "^data: derived.OwnData has no setting batch_size"),
        (slice(1), "^plan: data has no batch_tokens, nor are there rollouts"),
    ],
    ids=["sampled", "read"],
)
def test_data_of_which_the_batch_is_unknown_are_refused(
    callbacks: slice, message: str, stage: StepSRPO
) -> None:
    given = settings(named("derived.Silent"))
    given.trainer.callbacks = given.trainer.callbacks[callbacks]
    given.data = Namespace(class_path="derived.OwnData")
    with pytest.raises(UserError, match=message):
        read_job(stage, given, Overrides(MEMORY))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("katlit.parallel.ZeroStrategy", ZERO, Split("z2", 4, offload_optimizer=True, bucket=100)),
        ("katlit.parallel.zero.ZeroStrategy", ZERO, Split("z2", 4, offload_optimizer=True, bucket=100)),
        ("derived.DerivedZero", ZERO, Split("z2", 4, offload_optimizer=True, bucket=100)),
        ("katlit.parallel.Fsdp2Strategy", {"tensor_parallel_size": 1}, Split("fsdp2", 4)),
        ("katlit.parallel.fsdp2.Fsdp2Strategy", {"tensor_parallel_size": 1}, Split("fsdp2", 4)),
        ("derived.DerivedFsdp2", {"tensor_parallel_size": 1}, Split("fsdp2", 4)),
    ],
)
def test_a_strategy_is_the_same_by_every_name(name: str, arguments: dict[str, Any], expected: Split) -> None:
    assert read_split(Namespace(devices=4, num_nodes=1, strategy=named(name, **arguments))) == expected


def test_a_strategy_that_hides_its_stage_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.strategy: derived.FixedZero has no setting stage"):
        read_split(Namespace(devices=4, num_nodes=1, strategy=named("derived.FixedZero")))


def written(directory: Path, engine: dict[str, Any]) -> str:
    """Settings of stage 3 in a file."""
    backbone = {"config": QWEN, "tokenizer": write_tokenizer(directory / "tokenizer")}
    sampler = {"class_path": SAMPLERS[0], "init_args": {"engine": engine}}
    model = {"backbone": {"class_path": "katlit.model.Backbone", "init_args": backbone}}
    path = directory / "run.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "seed_everything": 1,
                "trainer": {"callbacks": [sampler]},
                "model": {"class_path": "katlit.modules.StepSRPO", "init_args": model},
                "data": {"class_path": "katlit.datamodules.PromptData", "init_args": {"batch_size": 4}},
            }
        )
    )
    return str(path)


def test_the_command_asks_the_class_that_a_file_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = written(tmp_path, {"class_path": "derived.DerivedHF", "init_args": HF})
    assert main(["plan", "-c", run, "--memory=1GiB"]) == 0
    assert "rollout engine in process" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("derived.DerivedHF", {"batch_size": 0}, "batch_size: 0; give at least 1"),
        (VLLM_NAMES[0], {"options": {"max_num_seqs": 0}}, "options.max_num_seqs: 0; give at least 1"),
        ("katlit.engines.VLLMServer", {"options": {"kv_cache_gib": 0}}, "options.kv_cache_gib: 0"),
    ],
)
def test_what_an_engine_refuses_is_one_line(
    name: str, arguments: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = written(tmp_path, {"class_path": name, "init_args": arguments})
    assert main(["plan", "-c", run, "--memory=1GiB"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"callbacks[0].init_args.engine.init_args.{message}" in error


def test_stage_3_is_counted_by_its_passes_and_an_engine_by_whether_it_sleeps(stage: StepSRPO) -> None:
    given = settings(named(VLLM_NAMES[0], **VLLM))
    whole = read_job(stage, given, Overrides(MEMORY))
    assert (whole.batch.tokens, whole.batch.row_tokens) == (4 * 2 * 32, 32)
    small = StepSRPO(stage.backbone, pass_tokens=70, kl_weight=0.1)
    found = read_job(small, given, Overrides(MEMORY, on_gpu=True))
    assert found.batch.tokens == 64  # two rows
    assert read_job(small, given, Overrides(MEMORY, row_tokens=100)).batch.tokens == 100  # a row at least
    assert (found.companion_dtype, found.dtype) == ("bfloat16", "float32")
    # the policy in float32, and a copy of it before that is cast; without the KL divergence there is none
    assert plan(found).loading == (found.shape.total + found.shape.parameters) * 4
    assert plan(whole).loading == found.shape.total * 4
    assert (found.engine_sleeps, whole.engine_sleeps) == (True, False)
    awake = plan(replace(found, engine_sleeps=False)).total
    assert (
        plan(replace(found, engine=10**9)).total
        < plan(replace(found, engine=10**9, engine_sleeps=False)).total
    )
    assert plan(found).total < awake


def test_a_process_takes_memory_of_the_cpu_but_none_of_a_gpu(stage: StepSRPO) -> None:
    given = settings(named(HF_NAMES[0], **HF))
    cpu, gpu = (read_job(stage, given, Overrides(MEMORY, on_gpu=on_gpu)) for on_gpu in (False, True))
    assert (cpu.libraries, gpu.libraries) == (LIBRARIES, 0)
    assert plan(cpu).total - plan(replace(cpu, libraries=0)).total == LIBRARIES
    assert "libraries of the process" in render(cpu)
    assert "libraries of the process" not in render(gpu)
    assert "half the tokens of a forward pass (model.init_args.pass_tokens)" in render(replace(gpu, memory=1))
