"""Several tokens drafted before the model checks them, whatever the number of modules that were trained."""

from pathlib import Path

import pytest
import torch
from tinydrafts import FREE, GREEDY, PROMPTS, SEEDS, WIDE, Running, assert_greedy, gap, train
from tinymodel import tiny_backbone

from katlit.engines import VLLMEngine, VLLMOptions
from katlit.metrics.tally import means

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.mark.parametrize(("modules", "tokens"), [pytest.param(1, 2, marks=pytest.mark.soak), (2, 3)])
def test_the_first_module_drafts_them_all(tmp_path: Path, modules: int, tokens: int) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    torch.manual_seed(0)
    backbone = tiny_backbone(tmp_path, WIDE, mtp_depth=modules)
    backbone.materialize()
    train(backbone, 40)
    backbone.export(tmp_path / "start")
    options = VLLMOptions(max_num_seqs=16, kv_cache_gib=0.1, speculative_tokens=tokens)
    engine = VLLMEngine(max_context=80, options=options)
    running = Running(engine, backbone)
    try:
        engine.start(tmp_path / "start")
        for _ in range(2):
            completions = engine.generate(PROMPTS, GREEDY)
            assert_greedy(backbone, PROMPTS, completions)
            assert gap(running, completions, GREEDY) < 1e-4
            assert means([engine.statistics()])["tokens_per_pass"] > 2  # several of a draft were right
            assert gap(running, engine.generate(PROMPTS, FREE, SEEDS), FREE) < 1e-4
            train(backbone, 5)
            running.sync()
    finally:
        engine.close()
