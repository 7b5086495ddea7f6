"""Engines sample from the very model that trains, adapters or none, after optimizer steps and syncs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tinymodel import QWEN, packed, tiny_backbone

from katlit.backbone import Backbone
from katlit.lora import LoraSettings
from katlit.rollout import HFEngine, RolloutEngine, SamplingParameters, VLLMEngine

PROMPTS = [[(7 * i + j) % 250 for j in range(length)] for i, length in enumerate((3, 8, 21))]
FREE = SamplingParameters(max_tokens=16)
WIDE: dict[str, Any] = QWEN | {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
LORA = LoraSettings(rank=4, alpha=8.0)
MODELS: dict[str, tuple[dict[str, Any], LoraSettings | None]] = {
    "lora": (WIDE, LORA),
    "lora-tied": (WIDE | {"tie_word_embeddings": True}, LORA),
}


@dataclass
class Running:
    engine: RolloutEngine
    backbone: Backbone


@pytest.fixture(scope="module", params=MODELS)
def backbone(request, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    config, lora = MODELS[request.param]
    directory = tmp_path_factory.mktemp("model")
    backbone = tiny_backbone(directory, config, lora=lora)
    backbone.materialize()
    backbone.export(directory / "start")
    return backbone


@pytest.fixture(scope="module", params=["hf", pytest.param("vllm", marks=pytest.mark.vllm)])
def running(request, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("engine") / "start"
    backbone.export(directory)
    engine: RolloutEngine = HFEngine(max_context=64)
    if request.param == "vllm":
        pytest.importorskip("vllm", exc_type=ImportError)
        engine = VLLMEngine(max_context=64, max_num_seqs=8, kv_cache_gib=0.1)
    engine.start(directory)
    yield Running(engine, backbone)
    engine.close()


@torch.no_grad()
def gap(running: Running) -> float:
    """Largest difference between the engine's log-probabilities and the trainer's."""
    largest = 0.0
    completions = running.engine.generate(PROMPTS, FREE, list(range(len(PROMPTS))))
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = torch.tensor([prompt + completion.token_ids])
        hidden = running.backbone(ids, torch.arange(ids.shape[1])[None]).main[0]
        truth = running.backbone.logits(hidden).log_softmax(dim=-1)
        for i, token in enumerate(completion.token_ids):
            difference = truth[len(prompt) + i - 1, token].item() - completion.log_probs[i]
            largest = max(largest, abs(difference))
    return largest


def train(backbone: Backbone) -> None:
    """Three optimizer steps, large ones."""
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-2)
    batch = packed([[12, 9], [20]])
    for _ in range(3):
        logits = backbone.logits(backbone(batch["input_ids"], batch["position_ids"]).main)
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten()
        ).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_log_probs_agree_after_each_of_three_syncs(running: Running) -> None:
    assert gap(running) < 1e-4
    for _ in range(3):
        train(running.backbone)
        assert gap(running) > 1e-2  # a sync left out shows
        running.engine.sync_weights(running.backbone.named_weights())
        assert gap(running) < 1e-4
