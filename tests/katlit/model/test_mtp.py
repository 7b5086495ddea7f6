"""What an MTP module may see: its own document, k tokens ahead; and that it is the formula of recipe §3."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import LLAMA, QWEN, packed, tiny_backbone
from torch import Tensor

from katlit.model.backbone import Backbone
from katlit.model.mtp import future_embeddings


def deep_backbone(directory: Path, config: dict[str, Any] = QWEN) -> Backbone:
    backbone = tiny_backbone(directory, config, mtp_depth=2)
    backbone.materialize()
    return backbone


@pytest.mark.parametrize("config", [QWEN, LLAMA], ids=["qwen2", "llama"])
def test_packed_equals_single(tmp_path: Path, config: dict[str, Any]) -> None:
    backbone = deep_backbone(tmp_path, config)
    lengths = [[5, 1, 7], [9, 2]]
    batch = packed(lengths)
    together = backbone(batch["input_ids"], batch["position_ids"], with_mtp=True)
    for row, row_lengths in enumerate(lengths):
        start = 0
        for length in row_lengths:
            ids = batch["input_ids"][row : row + 1, start : start + length]
            alone = backbone(ids, torch.arange(length).unsqueeze(0), with_mtp=True)
            for one, other in zip((together.main, *together.mtp), (alone.main, *alone.mtp), strict=True):
                torch.testing.assert_close(one[row, start : start + length], other[0], atol=1e-5, rtol=1e-4)
            start += length


def test_depth_k_sees_exactly_k_tokens_ahead(tmp_path: Path) -> None:
    backbone = deep_backbone(tmp_path)
    length, t = 9, 4
    ids, positions = torch.randint(256, (1, length)), torch.arange(length).unsqueeze(0)
    embed = backbone.causal_lm.get_input_embeddings()
    kept: list[Tensor] = []

    def keep(_module: object, _args: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    with embed.register_forward_hook(keep):
        hidden = backbone(ids, positions, with_mtp=True)
    for k, states in enumerate((hidden.main, *hidden.mtp)):
        gradients = torch.autograd.grad(states[0, t].sum(), kept, retain_graph=True, allow_unused=True)
        moved = sum(g.abs().sum(dim=-1)[0] for g in gradients if g is not None)
        assert (moved[: t + k + 1] > 0).all()
        assert (moved[t + k + 1 :] == 0).all()


def test_it_is_the_formula(tmp_path: Path) -> None:
    backbone = deep_backbone(tmp_path)
    length = 6
    ids, positions = torch.randint(256, (1, length)), torch.arange(length).unsqueeze(0)
    base = backbone.causal_lm.model
    with torch.no_grad():  # norms whose weights are all 1 could be applied twice and nobody would see it
        for name, weight in backbone.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    rotary = base.rotary_emb(torch.zeros(1, length, 1), positions)
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]

    def rms(x: Tensor, weight: Tensor) -> Tensor:
        return weight * x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    h = base.embed_tokens(ids)
    for layer in base.layers:
        h = layer(h, attention_mask=causal, position_embeddings=rotary)
    hidden = backbone(ids, positions, with_mtp=True)
    torch.testing.assert_close(hidden.main, rms(h, base.norm.weight), atol=1e-5, rtol=1e-4)
    for k, module in enumerate(backbone.mtp, start=1):
        future = torch.zeros(1, length, 32)
        for t in range(1, length - k):  # position 0 is masked, as vLLM's drafter masks it
            future[0, t] = base.embed_tokens.weight[ids[0, t + k]]
        parts = [rms(h, module.hidden_layernorm.weight), rms(future, module.token_layernorm.weight)]
        h = torch.cat(parts, dim=-1) @ module.input_proj.weight.T
        h = module.block(h, attention_mask=causal, position_embeddings=rotary)
        truth = rms(h, module.final_layernorm.weight)
        torch.testing.assert_close(hidden.mtp[k - 1], truth, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 3, 8, 9])
def test_future_embeddings_stay_in_the_document(depth: int) -> None:
    positions = torch.tensor([[0, 1, 2, 3, 0, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4, 5]])
    embeddings = torch.arange(1.0, 17.0).reshape(2, 8, 1)
    document = [[0, 0, 0, 0, 1, 2, 2, 2], [0, 0, 1, 1, 1, 1, 1, 1]]
    result = future_embeddings(embeddings, positions, depth)
    for row in range(2):
        for t in range(8):
            inside = t + depth < 8 and document[row][t] == document[row][t + depth] and positions[row, t] > 0
            assert result[row, t, 0] == (embeddings[row, t + depth, 0] if inside else 0)


def test_the_copies_are_no_longer_shared(tmp_path: Path) -> None:
    backbone = deep_backbone(tmp_path)
    last = backbone.causal_lm.model.layers[-1].mlp.up_proj.weight
    copies = [module.block.mlp.up_proj.weight for module in backbone.mtp]
    assert all(torch.equal(last, copy) and last is not copy for copy in copies)
    assert copies[0] is not copies[1]
