"""The backbone against plain transformers: same logits, same names, same weights after every round trip."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tinymodel import LLAMA, QWEN, QWEN2_MOE, QWEN3_MOE, packed, tiny_backbone, write_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.pretrained import load_tokenizer
from katlit.text.protocol import MARKERS

CONFIGS = [QWEN, LLAMA, QWEN | {"tie_word_embeddings": True}, QWEN3_MOE, QWEN2_MOE]
WEIGHTS = "model.safetensors"
NAMES = ["qwen2", "llama", "tied", "qwen3_moe", "qwen2_moe"]


def all_weights(backbone: Backbone) -> dict[str, Tensor]:
    return dict(backbone.named_weights(include_mtp=True))


def same_weights(one: Backbone, other: Backbone) -> bool:
    first, second = all_weights(one), all_weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_nothing_is_allocated_before_materialize(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, mtp_depth=2)
    assert not backbone.is_materialized
    assert backbone.protocol is backbone.load_tokenizer()
    assert list(backbone.parameters()) == []
    assert list(backbone.buffers()) == []


def test_materialize_is_idempotent_and_seeded(tmp_path: Path) -> None:
    backbone, twin = (tiny_backbone(tmp_path, mtp_depth=1, seed=3) for _ in range(2))
    state = torch.get_rng_state()
    backbone.materialize()
    model = backbone.causal_lm
    backbone.materialize()
    assert backbone.causal_lm is model
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    twin.materialize()
    assert same_weights(backbone, twin)
    other = tiny_backbone(tmp_path, mtp_depth=1, seed=4)
    other.materialize()
    assert not same_weights(backbone, other)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_packed_documents_equal_single_ones(tmp_path: Path, config: dict[str, Any]) -> None:
    backbone = tiny_backbone(tmp_path, config)
    backbone.materialize()
    lengths = [[5, 1, 7], [9, 2]]
    batch = packed(lengths)
    logits = backbone.logits(backbone(batch["input_ids"], batch["position_ids"]).main)
    for row, row_lengths in enumerate(lengths):
        start = 0
        for length in row_lengths:
            ids = batch["input_ids"][row, start : start + length]
            truth = backbone.causal_lm(ids.unsqueeze(0)).logits[0]
            torch.testing.assert_close(logits[row, start : start + length], truth, atol=1e-5, rtol=1e-4)
            start += length


def test_padding_does_not_matter(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path)
    backbone.materialize()
    batch = packed([[4, 3], [2, 2]])
    changed = batch["input_ids"].clone()
    changed[1, 4:] = 7
    before, after = (backbone(ids, batch["position_ids"]).main for ids in (batch["input_ids"], changed))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1, :4], after[1, :4])


@pytest.mark.parametrize("config", [QWEN, QWEN3_MOE], ids=["qwen2", "qwen3_moe"])
def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path, config: dict[str, Any]) -> None:
    batch = packed([[4, 3], [2, 5]])
    gradients = []
    for checkpointing in (False, True):
        backbone = tiny_backbone(tmp_path, config, mtp_depth=2, gradient_checkpointing=checkpointing)
        backbone.materialize()
        hidden = backbone(batch["input_ids"], batch["position_ids"], with_mtp=True)
        assert len(hidden.routing) == (4 if config is QWEN3_MOE else 0)  # two layers, two MTP modules
        sum(h.square().sum() for h in (hidden.main, *hidden.mtp, *hidden.routing)).backward()
        gradients.append([p.grad for p in backbone.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 20
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_growth_keeps_old_logits(tmp_path: Path, config: dict[str, Any]) -> None:
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**(config | {"vocab_size": 256})))
    plain.save_pretrained(tmp_path / "plain")
    write_tokenizer(tmp_path / "plain")
    backbone = Backbone(model=str(tmp_path / "plain"))
    backbone.materialize()
    batch = packed([[6], [4]])
    logits = backbone.logits(backbone(batch["input_ids"], batch["position_ids"]).main)
    # with a cache transformers would not see that the rows are packed
    truth = plain(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    torch.testing.assert_close(logits[..., :256], truth, atol=1e-5, rtol=1e-4)
    size = len(backbone.protocol.tokenizer)
    assert size >= 256 + len(MARKERS)
    assert logits.shape[-1] == backbone.causal_lm.config.vocab_size == size
    tables = [backbone.causal_lm.get_input_embeddings().weight, backbone.head_weight]
    assert (tables[0] is tables[1]) == config["tie_word_embeddings"]
    for table in tables:
        old, new = table[:256], table[256:]
        for measure in (torch.pdist, lambda rows: rows.norm(dim=-1)):  # as far apart, and as long
            assert 0.8 < measure(new).mean() / measure(old).mean() < 1.25
        assert torch.pdist(new).min() > 0.5 * torch.pdist(old).min()


def test_spare_rows_of_a_padded_table_are_initialised_too(tmp_path: Path) -> None:
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**(QWEN | {"vocab_size": 300})))
    with torch.no_grad():
        plain.get_input_embeddings().weight[256:] = 9.0  # never trained
    plain.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    backbone = Backbone(model=str(tmp_path))
    backbone.materialize()
    table = backbone.causal_lm.get_input_embeddings().weight
    size = len(backbone.protocol.tokenizer)
    assert table.shape[0] == 300
    assert (table[256:size] < 1).all()
    assert (table[size:] == 9).all()


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_named_weights_are_those_of_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    backbone = tiny_backbone(tmp_path, config, mtp_depth=1)
    backbone.materialize()
    weights = dict(backbone.named_weights())
    backbone.causal_lm.save_pretrained(tmp_path / "theirs")
    truth = load_file(tmp_path / "theirs/model.safetensors")
    truth.setdefault("lm_head.weight", backbone.head_weight)
    assert weights.keys() == truth.keys()
    assert all(torch.equal(weights[name], truth[name]) for name in truth)
    assert not any(weight.requires_grad for weight in weights.values())


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_export_is_an_ordinary_checkpoint(tmp_path: Path, config: dict[str, Any]) -> None:
    backbone = tiny_backbone(tmp_path, config, mtp_depth=2)
    backbone.materialize()
    backbone.export(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tokenizer"]  # no temporary is left
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_nextn_predict_layers == 2
    assert model.generation_config.eos_token_id == [backbone.protocol.end_id]
    batch = packed([[6], [4]])
    logits = backbone.logits(backbone(batch["input_ids"], batch["position_ids"]).main)
    truth = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    torch.testing.assert_close(truth, logits)
    tokenizer = load_tokenizer(str(tmp_path / "out"), "test")
    assert tokenizer.chat_template == backbone.protocol.tokenizer.chat_template
    assert tokenizer.convert_tokens_to_ids(list(MARKERS)) == list(backbone.protocol.marker_ids.values())


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_round_trip_is_exact(tmp_path: Path, config: dict[str, Any]) -> None:
    backbone = tiny_backbone(tmp_path, config, mtp_depth=2)
    backbone.materialize()
    backbone.export(tmp_path / "out")
    again = Backbone(model="unused", init_from=str(tmp_path / "out"))
    again.materialize()
    assert len(again.mtp) == 2
    assert same_weights(backbone, again)
    assert again.protocol.marker_ids == backbone.protocol.marker_ids
    again.export(tmp_path / "out")  # replaces a model
    for file in ("model.safetensors", "mtp/model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "out" / file).is_file()


def test_the_tokenizer_stays_what_it_was(tmp_path: Path) -> None:
    """AutoTokenizer would give a directory of model type qwen2 Qwen's pre-tokenizer and a token more."""
    backbone = tiny_backbone(tmp_path)
    backbone.materialize()
    backbone.export(tmp_path / "out")
    before = backbone.protocol.tokenizer
    after = load_tokenizer(str(tmp_path / "out"), "test")
    assert before.get_vocab() == after.get_vocab()
    text = "it's 12 + 345\n\n  = <think> 357 ünï"
    assert before.encode(text) == after.encode(text)
    assert before.backend_tokenizer.to_str() == after.backend_tokenizer.to_str()


def test_fewer_and_more_mtp_modules_than_stored(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, mtp_depth=2)
    backbone.materialize()
    backbone.export(tmp_path / "out")
    for depth in (0, 1, 3):
        other = Backbone(init_from=str(tmp_path / "out"), mtp_depth=depth, seed=8)
        other.materialize()
        assert len(other.mtp) == depth
        stored, loaded = all_weights(backbone), all_weights(other)
        shared = stored.keys() & loaded.keys()
        assert all(torch.equal(stored[name], loaded[name]) for name in shared)
        assert len({n for n in shared if "mtp_layers" in n}) == 16 * min(depth, 2)


def test_mtp_names_are_those_of_the_drafter(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, mtp_depth=1)
    backbone.materialize()
    names = {name for name, _ in backbone.named_weights(include_mtp=True) if "mtp" in name}
    layer = {name.removeprefix("model.layers.1.") for name in all_weights(backbone) if ".layers.1." in name}
    parts = ("token_layernorm", "hidden_layernorm", "input_proj", "final_layernorm")
    own = {f"{part}.weight" for part in parts}
    assert names == {f"model.mtp_layers.0.{name}" for name in layer | own}


def test_mtp_modules_have_a_folder_of_their_own(tmp_path: Path) -> None:
    for kind, config, architecture in (
        ("qwen", QWEN, "MiMoForCausalLM"),
        ("llama", LLAMA, "LlamaForCausalLM"),
    ):
        backbone = tiny_backbone(tmp_path, config, mtp_depth=2)
        backbone.materialize()
        out = tmp_path / kind
        backbone.export(out)
        files = {str(path.relative_to(out)) for path in out.glob("mtp/**/*") if path.is_file()}
        assert files == {f"mtp/{file}" for file in ("config.json", WEIGHTS, f"deeper/{WEIGHTS}")}
        assert set(load_file(out / WEIGHTS)) == set(dict(backbone.named_weights()))
        for number, file in enumerate((f"mtp/{WEIGHTS}", f"mtp/deeper/{WEIGHTS}")):
            names = {name for name in all_weights(backbone) if f".mtp_layers.{number}." in name}
            assert set(load_file(out / file)) == names
        own, drafter = (json.loads((out / part / "config.json").read_text()) for part in (".", "mtp"))
        assert own["architectures"] == [type(backbone.causal_lm).__name__]
        assert own["num_nextn_predict_layers"] == 2
        assert drafter == own | {"architectures": [architecture], "num_nextn_predict_layers": 1}


def test_export_spares_a_folder_of_other_things(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path)
    backbone.materialize()
    precious = tmp_path / "out" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(UserError, match=r"out.* holds other files"):
        backbone.export(tmp_path / "out")
    assert precious.read_text() == "mine"


def test_bad_sources_are_named(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    empty = tmp_path / "empty"
    empty.mkdir()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"init_from": "./nowhere"}, r"backbone\.init_from: directory './nowhere' does not exist"),
        ({"model": str(tmp_path / "gone")}, r"backbone\.model: directory .*gone' does not exist"),
        ({"init_from": str(empty)}, r"backbone\.init_from: no tokenizer found in .*empty"),
        ({"model": str(empty), "tokenizer": tokenizer}, r"backbone\.model: .*empty' has no config\.json"),
        ({"init_from": tokenizer}, r"backbone\.init_from: .*tokenizer' has no config\.json"),
        ({"config": QWEN}, r"backbone\.tokenizer: not given"),
        ({"tokenizer": tokenizer}, r"give model .*config or init_from"),
        ({"tokenizer": tokenizer, "config": {}}, r"backbone\.config: model_type is missing"),
        ({"tokenizer": tokenizer, "config": {"model_type": "qwen99"}}, r"backbone\.config: .*qwen99"),
    ]
    for settings, message in cases:
        with pytest.raises(UserError, match=message):
            Backbone(**settings).materialize()


def test_mtp_needs_a_decoder_it_knows(tmp_path: Path) -> None:
    gpt = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2}
    with pytest.raises(UserError, match="gpt2 is no Llama-like decoder"):
        tiny_backbone(tmp_path, gpt, mtp_depth=1).materialize()
    tiny_backbone(tmp_path, gpt).materialize()
