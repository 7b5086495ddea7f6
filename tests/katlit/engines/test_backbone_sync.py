"""Engines sample from the very model that trains, adapters or experts, after optimizer steps and syncs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tinymodel import QWEN, QWEN2_MOE, QWEN3_MOE, packed, tiny_backbone

from katlit.engines import HFEngine, RolloutEngine, SamplingParameters, VLLMEngine, VLLMOptions, VLLMServer
from katlit.engines.fingerprint import SentWeights
from katlit.engines.vllm.options import ServerOptions
from katlit.model.backbone import Backbone
from katlit.model.lora import LoraSettings

PROMPTS = [[(7 * i + j) % 250 for j in range(length)] for i, length in enumerate((3, 8, 21))]
FREE = SamplingParameters(max_tokens=16)
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
WIDE: dict[str, Any] = QWEN | SHAPE
LORA = LoraSettings(rank=4, alpha=8.0)
MODELS: dict[str, tuple[dict[str, Any], LoraSettings | None]] = {
    "lora": (WIDE, LORA),
    "lora-tied": (WIDE | {"tie_word_embeddings": True}, LORA),
    # vLLM's kernel pads experts of a width of 48, and takes those of 32 as they are
    "qwen3_moe": (QWEN3_MOE | SHAPE | {"head_dim": 32, "moe_intermediate_size": 48}, None),
    "qwen2_moe": (
        QWEN2_MOE | SHAPE | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
        None,
    ),
}
PAIRS = [(engine, model) for model in MODELS for engine in ("hf", "vllm")]
MARKS = {"hf": [], "vllm": [pytest.mark.vllm], "server": [pytest.mark.vllm, pytest.mark.soak]}


@dataclass
class Running:
    engine: RolloutEngine
    backbone: Backbone


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(pair, id="-".join(pair), marks=MARKS[pair[0]])
        for pair in [*PAIRS, ("server", "qwen2_moe")]
    ],
)
def running(request, tmp_path_factory: pytest.TempPathFactory, server_environment) -> Iterator[Running]:
    name, kind = request.param
    config, lora = MODELS[kind]
    directory = tmp_path_factory.mktemp("model")
    backbone = tiny_backbone(directory, config, lora=lora)
    backbone.materialize()
    backbone.export(directory / "start")
    engine: RolloutEngine = HFEngine(max_context=64)
    if name != "hf":
        pytest.importorskip("vllm", exc_type=ImportError)
        options = ServerOptions(max_num_seqs=8, kv_cache_gib=0.1, environment=server_environment)
        engine = (
            VLLMServer(max_context=64, options=options)
            if name == "server"
            else VLLMEngine(max_context=64, options=VLLMOptions(max_num_seqs=8, kv_cache_gib=0.1))
        )
    try:
        engine.start(directory / "start")
        yield Running(engine, backbone)
    finally:
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


def train(backbone: Backbone, part: str = "") -> None:
    """Three optimizer steps, large ones, on the weights that have this part in their names."""
    parameters = [p for name, p in backbone.named_parameters() if p.requires_grad and part in name]
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
    for part in ("", "", ".mlp."):  # at last nothing but MLPs or experts
        train(running.backbone, part)
        assert gap(running) > 1e-2  # a sync left out shows
        sent = SentWeights()
        running.engine.sync_weights(sent.watch(running.backbone.named_weights()))
        assert gap(running) < 1e-4
        loaded = running.engine.fingerprints()
        assert not sent.differing(loaded)
        # vLLM keeps experts in an order of its kernel's own.
        assert all(".mlp.experts." in name for name in sent.unread(loaded))
        assert "model.layers.1.self_attn.v_proj.weight" in loaded


MATRIX = "model.layers.1.mlp.down_proj.weight"


def test_one_matrix_of_the_step_before_is_found(running: Running) -> None:
    old = {name: weight.detach().clone() for name, weight in running.backbone.named_weights()}
    name = next(name for name in (MATRIX, "model.layers.1.self_attn.o_proj.weight") if name in old)
    train(running.backbone)
    sent = SentWeights()
    weights = sent.watch(running.backbone.named_weights())
    running.engine.sync_weights((n, old[n] if n == name else weight) for n, weight in weights)
    assert sent.differing(running.engine.fingerprints()) == [name]
