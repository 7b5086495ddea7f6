"""A vLLM server that fails: it is started once more, no completion is lost, and nothing is left running."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import PreTrainedModel

from katlit.engines import Completion, SamplingParameters, VLLMServer
from katlit.engines.fingerprint import SentWeights
from katlit.engines.vllm.options import ServerOptions, ServerTimeouts
from katlit.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
PROMPTS = [[(7 * i + j) % 75 for j in range(5 + i % 9)] for i in range(48)]
SEEDS = list(range(48))
LONG = SamplingParameters(max_tokens=200)


def new_engine(environment: dict[str, str]) -> VLLMServer:
    pytest.importorskip("vllm", exc_type=ImportError)
    options = ServerOptions(max_num_seqs=8, kv_cache_gib=0.1, environment=environment)
    return VLLMServer(max_context=250, options=options, timeouts=ServerTimeouts(hang=10.0))


@pytest.fixture
def model(build_model) -> PreTrainedModel:
    """The trainer's, which moved on after the export that the server starts from."""
    trained = build_model("qwen2", True)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return trained


@pytest.fixture
def engine(
    server_environment: dict[str, str], qwen2_directory: Path, model: PreTrainedModel
) -> Iterator[VLLMServer]:
    running = new_engine(server_environment)
    try:
        running.start(qwen2_directory)
        running.sync_weights(model.state_dict().items())
        yield running
    finally:
        running.close()


def processes(engine: VLLMServer) -> list[psutil.Process]:
    """All of the server's process group: guardian, HTTP server, engine core and others."""
    group = engine._supervisor.process.group
    found = [process for process in psutil.process_iter() if _group(process.pid) == group]
    assert len(found) >= 3
    return found


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def http_server(engine: VLLMServer) -> psutil.Process:
    (found,) = psutil.Process(engine._supervisor.process.group).children()
    return found


def engine_core(engine: VLLMServer) -> psutil.Process:
    (found,) = [process for process in processes(engine) if "EngineCore" in process.name()]
    return found


def assert_gone(group: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(group, timeout=20)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


class Interrupting:
    """A client that does something as the eighth completion arrives, once."""

    def __init__(self, client: Any, action: Callable[[], object]) -> None:
        self.client = client
        self.action = action
        self.arrived = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def generate(self, requests: Any, sampling: Any, version: str, done: Any, *rest: Any) -> None:
        def notice(*completed: Any) -> None:
            done(*completed)
            self.arrived += 1
            if self.arrived == 8:
                self.action()

        self.client.generate(requests, sampling, version, notice, *rest)


def generate_while(action: Callable[[], object], engine: VLLMServer) -> list[Completion]:
    """The completions, where the action happens after some of them and before most."""
    client = engine._client
    engine._client = Interrupting(client, action)
    try:
        return engine.generate(PROMPTS, LONG, SEEDS)
    finally:
        engine._client = client


def generate_and_again(action: Callable[[], object], engine: VLLMServer) -> None:
    """The same twice: the action may come after the last completion of the first was sampled."""
    generate_while(action, engine)
    engine.generate(PROMPTS, LONG, SEEDS)


@torch.no_grad()
def gap(model: PreTrainedModel, completions: list[Completion]) -> float:
    """Largest difference between the engine's log-probabilities and a plain forward pass."""
    gaps = []
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        logits = model(torch.tensor([prompt + completion.token_ids])).logits[0, len(prompt) - 1 : -1]
        truth = logits.log_softmax(-1).gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        gaps.append((truth - torch.tensor(completion.log_probs)).abs().max().item())
    return max(gaps)


def assert_same(found: list[Completion], expected: list[Completion], model: PreTrainedModel) -> None:
    assert [completion.token_ids for completion in found] == [other.token_ids for other in expected]
    assert gap(model, found) < 1e-4


def test_a_killed_server_is_replaced_once(engine: VLLMServer, model: PreTrainedModel) -> None:
    expected = engine.generate(PROMPTS, LONG, SEEDS)
    assert gap(model, expected) < 1e-4
    first = processes(engine)
    killed = generate_while(http_server(engine).kill, engine)
    assert_same(killed, expected, model)
    engine.sync_weights(model.state_dict().items())
    assert_same(engine.generate(PROMPTS, LONG, SEEDS), expected, model)
    assert_gone(first)
    assert engine._supervisor.restarts == 1
    second = processes(engine)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^vLLM server failed again after a restart: [^\n]*$"):
        generate_and_again(engine_core(engine).kill, engine)
    assert time.monotonic() - started < 60
    assert_gone(second)


@pytest.mark.soak
@pytest.mark.parametrize("part", [http_server, engine_core])
def test_a_hung_server_is_replaced(
    engine: VLLMServer, model: PreTrainedModel, part: Callable[[VLLMServer], psutil.Process]
) -> None:
    expected = engine.generate(PROMPTS, LONG, SEEDS)
    first = processes(engine)
    hung = generate_while(part(engine).suspend, engine)
    assert_same(hung, expected, model)
    assert_same(engine.generate(PROMPTS, LONG, SEEDS), expected, model)  # all may have been sampled before
    assert_gone(first)


def test_a_server_that_dies_between_samples_and_sync_gets_the_new_weights(
    engine: VLLMServer, model: PreTrainedModel
) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(1.3)
    http_server(engine).kill()
    sent = SentWeights()
    engine.sync_weights(sent.watch(model.state_dict().items()))
    assert gap(model, engine.generate(PROMPTS, LONG, SEEDS)) < 1e-4
    loaded = engine.fingerprints()
    assert (sent.differing(loaded), sent.unread(loaded)) == ([], [])


def test_a_trainer_that_is_killed_takes_its_server_along(
    server_environment: dict[str, str], qwen2_directory: Path, tmp_path: Path
) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    script = f"""
import time
from pathlib import Path
from katlit.engines import VLLMServer
from katlit.engines.vllm.options import ServerOptions
options = ServerOptions(kv_cache_gib=0.1, environment={server_environment!r})
engine = VLLMServer(max_context=64, options=options, directory=Path({str(tmp_path)!r}))
engine.start(Path({str(qwen2_directory)!r}))
print(engine._supervisor.process.group, flush=True)
time.sleep(600)
"""
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        number = int(trainer.stdout.readline())
        group = [process for process in psutil.process_iter() if _group(process.pid) == number]
        assert len(group) >= 3
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        trainer.send_signal(signal.SIGKILL)
        trainer.communicate()
    _, alive = psutil.wait_procs(group, timeout=15)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_start_says_why(
    server_environment: dict[str, str], qwen2_directory: Path
) -> None:
    running = new_engine(server_environment | {"VLLM_PLUGINS": "none"})
    with pytest.raises(
        UserError, match=r"Invalid weight transfer backend: katlit_files.* install katlit again"
    ):
        running.start(qwen2_directory)
    running.close()


def test_a_running_server_is_joined_and_left_running_until_its_owner_ends_all_of_it(
    engine: VLLMServer, qwen2_directory: Path, model: PreTrainedModel
) -> None:
    joined = VLLMServer(url=engine._client.url, max_context=250)
    joined.start(qwen2_directory)
    joined.sync_weights(model.state_dict().items())
    assert gap(model, joined.generate(PROMPTS, LONG, SEEDS)) < 1e-4
    joined.close()
    engine._client.probe()
    with pytest.raises(UserError, match="max_model_len 250, below max_context 251"):
        VLLMServer(url=engine._client.url, max_context=251).start(qwen2_directory)

    group, folder = processes(engine), engine._folder
    for process in group[1:]:  # hung processes are ended too
        process.suspend()
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 20
    assert_gone(group)
    assert not folder.exists()
