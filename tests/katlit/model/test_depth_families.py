"""Depth up-scaling of the families of dense decoders, whose layers and projections bear many names."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import QWEN, QWEN3_MOE, packed, tiny_backbone
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.depth import DepthSettings, decoder_layers, deepen

FOUR: dict[str, Any] = QWEN | {"num_hidden_layers": 4}
SIX = DepthSettings(layers=6)
ORDER = [0, 1, 1, 2, 3, 3]
# What differs from QWEN's settings. So do, beside names, norms, biases, parallel branches, multipliers and
# lists with an entry for each layer.
FAMILIES: dict[str, dict[str, Any]] = {
    "cohere2": {"logit_scale": 1.0, "sliding_window": 3},
    "gemma2": {"final_logit_softcapping": None, "sliding_window": 3, "head_dim": 8},
    "gemma3_text": {"sliding_window": 3, "head_dim": 8, "tie_word_embeddings": True},
    "glm4": {"head_dim": 8, "attention_bias": True, "pad_token_id": 0},
    "gpt2": {"tie_word_embeddings": True},
    "gpt_neox": {},
    "granite": {"residual_multiplier": 0.3, "embedding_multiplier": 3.0, "mlp_bias": True},
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "nemotron": {"attention_bias": True, "mlp_bias": True},
    "olmo2": {},
    "persimmon": {},
    "phi3": {"pad_token_id": 0},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "smollm3": {"pad_token_id": 0},
    "stablelm": {"use_qkv_bias": True},
    "starcoder2": {"use_bias": True},
}
# Phi's output head has a bias, GPT-Neo knows eager attention only, and in packed rows of the others documents
# see each other.
BARE: dict[str, dict[str, Any]] = {
    "bloom": {},
    "falcon": {"bias": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 3},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": {},
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "experts": (
        "qwen3_moe",
        {name: QWEN3_MOE[name] for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")},
        "Qwen3MoeDecoderLayer has 0 output projections of its MLP",
    ),
    "mamba": ("jamba", {}, "JambaMambaDecoderLayer has 0 output projections of its attention"),
    "rwkv": ("rwkv", {}, "RwkvBlock has 0 output projections of its attention"),
    "cross": ("trocr", {"d_model": 32}, r"2 output projections of its attention \(self_attn.*encoder_attn"),
    "names": ("bert", {"is_decoder": True}, "BertLayer has 0 output projections of its MLP"),
    "norms": ("openai-gpt", {}, "Block changes the function"),  # on the residual stream itself
    "residual": ("doge", {}, "DogeDecoderLayer changes the function"),  # whose weights are learnt
    "place": ("diffllama", {}, "DiffLlamaDecoderLayer lambda_init depends on its place"),
    "scaling": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "GPT2Block scaling depends on its place"),
    "last": ("gpt_neox_japanese", {}, r"layers\.\d\.attention\.dense_bias depends on its place"),
    "lists": ("xlm", {}, r"has 4 lists of 4 layers \(attentions, .*\), not one"),
}


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """Fresh biases are 0 and norms 1, and would hide a forgotten one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def bare(kind: str, settings: dict[str, Any]) -> PreTrainedModel:
    config = AutoConfig.for_model(**FOUR | {"model_type": kind, "vocab_size": 256} | settings)
    return shaken(AutoModelForCausalLM.from_config(config))


def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def require_up_scaled(plain: PreTrainedModel, deep: PreTrainedModel) -> None:
    """The same function of the same old weights, and gradients that reach what new layers add."""
    ids = torch.randint(256, (2, 12))
    torch.testing.assert_close(logits(deep, ids), logits(plain, ids), rtol=0, atol=1e-5)
    old, layers = decoder_layers(plain), decoder_layers(deep)
    assert len(layers) == deep.config.num_hidden_layers == 6
    weights, before = deep.state_dict(), plain.state_dict()
    prefix = next(name for name, module in deep.named_modules() if module is layers)
    for name, weight in before.items():
        if not name.startswith(f"{prefix}."):
            assert torch.equal(weight, weights[name])
    for index, layer in enumerate(old):
        kept = layers[ORDER.index(index)].state_dict()
        assert all(torch.equal(weight, kept[name]) for name, weight in layer.state_dict().items())
    logits(deep, ids).square().sum().backward()
    for index in (2, 5):
        zeros = [parameter for parameter in layers[index].parameters() if not parameter.any()]
        assert len([parameter for parameter in zeros if parameter.dim() == 2]) == 2
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in zeros)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_of_dense_decoders(kind: str, tmp_path: Path) -> None:
    plain = tiny_backbone(tmp_path, FOUR | {"model_type": kind} | FAMILIES[kind])
    plain.materialize()
    shaken(plain.causal_lm)
    plain.export(tmp_path / "plain")
    deep = Backbone(model=str(tmp_path / "plain"), depth=SIX)
    deep.materialize()
    require_up_scaled(plain.causal_lm, deep.causal_lm.eval())
    shaken(deep.causal_lm)
    deep.export(tmp_path / "deep")
    again = Backbone(init_from=str(tmp_path / "deep"))
    again.materialize()
    again.eval()
    batch = packed([[9, 6], [12]])
    rows = [each.logits(each(batch["input_ids"], batch["position_ids"]).main) for each in (deep, again)]
    assert torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("kind", BARE)
def test_a_family_that_is_no_backbone(kind: str, tmp_path: Path) -> None:
    plain = bare(kind, BARE[kind])
    deep = copy.deepcopy(plain)
    deepen(deep, SIX)
    require_up_scaled(plain, deep)
    shaken(deep).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(256, (2, 12))
    assert torch.equal(logits(again, ids), logits(deep, ids))


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(case: str) -> None:
    kind, settings, message = REFUSED[case]
    model = bare(kind, settings)
    with pytest.raises(UserError, match=rf"^backbone\.depth: .*{message}"):
        deepen(model, SIX)
