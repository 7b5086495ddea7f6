"""Drafts by a real vLLM server: the text stays the model's, and a sync brings the module along."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
import torch
from tinydrafts import FREE, GREEDY, PROMPTS, SEEDS, WIDE, Running, assert_greedy, expected_drafts, gap, train
from tinymodel import tiny_backbone

from katlit.engines import VLLMServer
from katlit.engines.vllm.options import ServerOptions
from katlit.metrics.tally import means

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.fixture
def running(server_environment: dict[str, str], tmp_path: Path) -> Iterator[Running]:
    pytest.importorskip("vllm", exc_type=ImportError)
    torch.manual_seed(0)
    backbone = tiny_backbone(tmp_path, WIDE | {"tie_word_embeddings": True}, mtp_depth=2)
    backbone.materialize()
    train(backbone, 40)
    backbone.export(tmp_path / "start")
    options = ServerOptions(
        max_num_seqs=16, kv_cache_gib=0.1, speculative_tokens=1, environment=server_environment
    )
    engine = VLLMServer(max_context=80, options=options)
    try:
        engine.start(tmp_path / "start")
        yield Running(engine, backbone)
    finally:
        engine.close()


def accepted(engine: VLLMServer) -> int:
    """What the server itself has counted."""
    with urlopen(f"{engine._client.url}/metrics") as page:  # noqa: S310 (our own server)
        text = page.read().decode()
    found = re.findall(r"^vllm:spec_decode_num_accepted_tokens_total\{.*\} (.+)$", text, re.MULTILINE)
    return int(sum(map(float, found)))


def assert_present(running: Running) -> None:
    """The text is the present model's, the drafts are the present module's, at a temperature too."""
    before = accepted(running.engine)
    running.engine.statistics()  # those of before are told
    completions = running.engine.generate(PROMPTS, GREEDY)
    assert_greedy(running.backbone, PROMPTS, completions)
    assert gap(running, completions, GREEDY) < 1e-4
    drafts = expected_drafts(running.backbone, PROMPTS, completions)
    assert accepted(running.engine) - before == drafts.accepted > 0.3 * drafts.proposed
    found = running.engine.statistics()
    assert {name: found[name] for name in drafts.statistics()} == drafts.statistics()
    assert gap(running, running.engine.generate(PROMPTS, FREE, SEEDS), FREE) < 1e-4


def test_model_and_module_come_with_a_sync(running: Running) -> None:
    assert_present(running)
    for _ in range(2):
        train(running.backbone, 5)
        running.sync()
        assert_present(running)
    good = running.engine.generate(PROMPTS, GREEDY)
    running.engine.statistics()
    weights = dict(running.backbone.named_weights(include_mtp=True))
    name = "model.mtp_layers.0.input_proj.weight"
    running.engine.sync_weights((weights | {name: torch.zeros_like(weights[name])}).items())
    assert [c.token_ids for c in running.engine.generate(PROMPTS, GREEDY)] == [c.token_ids for c in good]
    assert means([running.engine.statistics()])["draft_acceptance"] < 0.3


@pytest.mark.soak
def test_a_server_that_was_started_again_drafts_with_the_present_module(running: Running) -> None:
    train(running.backbone, 5)
    running.sync()
    (http_server,) = psutil.Process(running.engine._supervisor.process.group).children()
    http_server.kill()
    assert_greedy(running.backbone, PROMPTS, running.engine.generate(PROMPTS, GREEDY))
    assert running.engine._supervisor.restarts == 1
    assert_present(running)
