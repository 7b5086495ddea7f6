"""Against what autograd keeps of transformers' own layers."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from katlit.commands.plan import activations
from katlit.commands.plan.activations import Batch
from katlit.commands.plan.precision import precision_of
from katlit.model.lora import LoraSettings, add_adapters
from katlit.model.mtp import MTPModule, future_embeddings
from katlit.model.shape import adapters_of, shape_of

ROWS, LENGTH = 4, 32
WIDTHS: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 300, "tie_word_embeddings": False,
}  # fmt: skip
HEAD: dict[str, Any] = {"head_dim": 16}
EXPERTS: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": HEAD,
    "qwen3_moe": HEAD | EXPERTS,
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 48},
}


def build(kind: str, layers: int, dtype: str, attention: str) -> Any:
    config = AutoConfig.for_model(kind, **WIDTHS | MODELS[kind], num_hidden_layers=layers)
    return AutoModelForCausalLM.from_config(
        config, dtype=getattr(torch, dtype), attn_implementation=attention
    ).train()


def positions() -> torch.Tensor:
    """Two documents a row, so that there is a mask."""
    return torch.arange(LENGTH // 2).repeat(ROWS, 2)


class Kept:
    """Bytes of all storages that autograd keeps for a backward pass, weights left out."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self.weights = {p.untyped_storage().data_ptr() for m in modules for p in m.parameters()}
        self.storages: dict[int, torch.UntypedStorage] = {}

    def __enter__(self) -> "Kept":
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


def kept_by_model(model: Any, *, autocast: bool) -> int:
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    with Kept(model) as kept, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model.model(input_ids=ids, position_ids=positions(), use_cache=False)
    assert output.last_hidden_state.requires_grad
    return kept.bytes


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("dtype", "word"), [("float32", "32-true"), ("bfloat16", "bf16-true"), ("float32", "bf16-mixed")]
)
@pytest.mark.parametrize("kind", MODELS)
def test_a_layer_keeps_what_autograd_keeps_of_it(kind: str, dtype: str, word: str, attention: Any) -> None:
    precision = precision_of(dtype, word, zero=False)
    two, three = build(kind, 2, dtype, attention), build(kind, 3, dtype, attention)
    casts = [activations.cast_bytes(shape_of(model), precision) for model in (two, three)]
    kept = [kept_by_model(model, autocast=word == "bf16-mixed") for model in (two, three)]
    batch = Batch(ROWS * LENGTH, LENGTH, attention)
    planned = activations.layer_bytes(shape_of(three), precision, batch) + casts[1] - casts[0]
    assert planned == pytest.approx(kept[1] - kept[0], rel=2e-3)  # norms and biases are not cast


def test_a_model_keeps_its_layers_and_the_final_norm() -> None:
    model = build("qwen2", 3, "float32", "sdpa")
    precision = precision_of("float32", "32-true", zero=False)
    planned = activations.kept_bytes(shape_of(model), precision, Batch(ROWS * LENGTH, LENGTH), with_mtp=False)
    # The output is not kept by the model itself but by the loss that multiplies it; rotary tables are small.
    output = ROWS * LENGTH * 64 * 4
    assert planned - output == pytest.approx(kept_by_model(model, autocast=False), rel=0.02)


@pytest.mark.parametrize(("dtype", "word"), [("float32", "32-true"), ("bfloat16", "bf16-true")])
def test_adapters_keep_what_is_between_their_matrices(dtype: str, word: str) -> None:
    model = build("qwen2", 3, dtype, "sdpa")
    bare = kept_by_model(model, autocast=False)
    add_adapters(model, LoraSettings(rank=8), [])
    adapters = adapters_of(model)
    model.requires_grad_(True)  # else less of the frozen layers is kept than the plan counts
    precision = precision_of(dtype, word, zero=False)
    planned = activations.adapter_bytes(adapters, shape_of(model), precision, Batch(ROWS * LENGTH, LENGTH))
    assert planned == pytest.approx(kept_by_model(model, autocast=False) - bare, rel=2e-3)


def test_an_mtp_module_keeps_a_layer_and_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen2", 1, "float32", "sdpa")
    layer, norm = model.model.layers[0], model.model.norm
    module = MTPModule(layer, norm, 64, 0.02)
    previous = torch.randn(ROWS, LENGTH, 64, requires_grad=True)
    embeddings = torch.randn(ROWS, LENGTH, 64, requires_grad=True)
    mask = torch.ones(ROWS, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    arguments = {
        "attention_mask": mask, "position_embeddings": model.model.rotary_emb(previous, positions())
    }  # fmt: skip
    with Kept(module) as kept:
        module(previous, future_embeddings(embeddings, positions(), 1), arguments)
    precision = precision_of("float32", "32-true", zero=False)
    batch = Batch(ROWS * LENGTH, LENGTH)
    shape = shape_of(model)
    planned = activations.layer_bytes(shape, precision, batch) + activations.mtp_bytes(
        shape, precision, batch
    )
    assert planned == pytest.approx(kept.bytes, rel=0.05)


def test_checkpointing_keeps_inputs_and_one_layer() -> None:
    shape = shape_of(build("qwen2", 3, "float32", "sdpa"))
    precision = precision_of("float32", "32-true", zero=False)
    whole, checkpointed = (
        activations.kept_bytes(shape, precision, Batch(128, 32, checkpointing=flag), with_mtp=False)
        for flag in (False, True)
    )
    layer = activations.layer_bytes(shape, precision, Batch(128, 32))
    assert layer == 128 * 5272
    assert whole - checkpointed == 2 * layer - 3 * 128 * 64 * 4


def test_the_routing_is_kept_even_by_checkpointed_layers() -> None:
    shape = shape_of(build("qwen3_moe", 3, "float32", "sdpa"))
    precision, batch = precision_of("float32", "32-true", zero=False), Batch(128, 32, checkpointing=True)
    kept = activations.kept_bytes(shape, precision, batch, with_mtp=False)
    unrouted = 3 * 128 * 64 * 4 + activations.layer_bytes(shape, precision, batch) + 128 * (64 * 12 + 4)
    assert kept - unrouted == 3 * 128 * 8 * 8  # of each token and expert a logit and a probability
