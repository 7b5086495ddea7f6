"""Stage 3 on two processes: with vLLM in each of them, and with one vLLM server for both, killed or not."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest
from killable import finish, kill, on_two_processes, rows, start, wait_for

VLLM, SERVER = "katlit.engines.VLLMEngine", "katlit.engines.VLLMServer"
ENGINE = "--trainer.callbacks.engine"
pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]


def words(engine: str) -> list[str]:
    return ["--trainer.max_steps=3", f"{ENGINE}={engine}", f"{ENGINE}.max_context=256"]


def assert_engine_follows_trainer(directory: Path) -> None:
    steps = rows(directory)
    assert sorted(steps) == [1, 2, 3]
    assert all(row["rollout/logprob_gap"] < 1e-4 for row in steps.values())


@pytest.mark.parametrize(
    "strategy",
    [
        "fsdp2",
        pytest.param("ddp", marks=pytest.mark.soak),
        pytest.param("deepspeed_z3", marks=pytest.mark.soak),
    ],
)
def test_an_engine_in_each_process(tmp_path: Path, strategy: str) -> None:
    finish(start(tmp_path, *on_two_processes(strategy), *words(VLLM)))
    assert_engine_follows_trainer(tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("killed", [False, True])
def test_one_server_for_both(tmp_path: Path, server_environment: dict[str, str], killed: bool) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    options = [f"{ENGINE}.options.max_num_seqs=16", f"{ENGINE}.options.kv_cache_gib=0.1"]
    run = start(tmp_path, *on_two_processes("ddp"), *words(SERVER), *options, environment=server_environment)
    try:
        while not rows(tmp_path):
            assert run.poll() is None, finish(run)
            time.sleep(0.01)
        server = server_of(run.pid)
        if killed:
            server.kill()
        assert ("starting it again" in finish(run)) == killed
    finally:
        run.kill()
    assert_engine_follows_trainer(tmp_path)
    assert not psutil.pid_exists(server.pid)


@pytest.mark.soak  # test_server and test_ranks have its parts
def test_one_server_samples_ahead_through_a_fault_and_a_kill(
    tmp_path: Path, server_environment: dict[str, str]
) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    options = [f"{ENGINE}.options.max_num_seqs=16", f"{ENGINE}.options.kv_cache_gib=0.1"]
    options += [
        "--trainer.callbacks.max_staleness=1",
        "--trainer.max_steps=6",
        "--data.init_args.history=false",
    ]

    def begin(*more: str) -> subprocess.Popen[str]:
        line = [*on_two_processes("ddp"), *words(SERVER), *options, *more]
        return start(tmp_path, *line, environment=server_environment)

    run = begin()
    try:
        wait_for(tmp_path, run, 1)
        server_of(run.pid).kill()  # while the rollouts of the next step are in flight, or were just sampled
        wait_for(tmp_path, run, 3)
        kill(run)
        finish(run := begin("--ckpt_path=last"))
    finally:
        run.kill()
    steps = rows(tmp_path)
    assert [steps[step]["rollout/staleness"] for step in range(1, 7)] == [0, 1, 0, 1, 0, 1]
    assert all(row["rollout/logprob_gap"] < 1e-4 for row in steps.values())


def server_of(trainer: int) -> psutil.Process:
    """The only HTTP server that the process has started."""
    module = "vllm.entrypoints.openai.api_server"
    commands = [(child, child.cmdline()) for child in psutil.Process(trainer).children(recursive=True)]
    (server,) = [child for child, line in commands if module in line and "-I" not in line]  # not the guardian
    return server
