"""Adapters against plain transformers and peft: what leaves is the merged model; nothing else has moved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fixedbatches import merge, step_batches
from lightning.pytorch import Trainer
from tinymodel import LLAMA, QWEN, QWEN2_MOE, fit, packed, tiny_backbone, write_tokenizer
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM

from katlit.callbacks.checkpoint import StepCheckpoint
from katlit.datamodules.loader import EpochLoader
from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.experts import unpacked
from katlit.model.lora import LoraSettings, is_adapter
from katlit.model.pretrained import load_tokenizer
from katlit.modules import ColdStartSFT, DistillMTP, StepSRPO
from katlit.stage.module import KatModule
from katlit.stage.optimization import Optimization, build_optimizer

CONFIGS = [QWEN, LLAMA, QWEN | {"tie_word_embeddings": True}, QWEN2_MOE]
NAMES = ["qwen2", "llama", "tied", "qwen2_moe"]
LORA = LoraSettings(rank=4, alpha=8.0)
FAST = Optimization(learning_rate=3e-3)
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def base_of(directory: Path, config: dict[str, Any] = QWEN) -> str:
    """An exported model, as a stage starts from."""
    backbone = tiny_backbone(directory, config, mtp_depth=1)
    backbone.materialize()
    backbone.export(directory / "base")
    return str(directory / "base")


def batch_of(backbone: Backbone) -> dict[str, Tensor]:
    """Packed documents, a marker in each of them."""
    batch = packed([[9, 6], [7]])
    batch["input_ids"][:, 2] = backbone.protocol.marker_ids["<think_on>"]
    batch["input_ids"][0, 12] = backbone.protocol.marker_ids["<think_off>"]
    return batch


def trained(base: str, steps: int = 4, lora: LoraSettings = LORA) -> tuple[Backbone, dict[str, Tensor]]:
    """A backbone after some optimizer steps, and a batch."""
    stage = ColdStartSFT(
        Backbone(init_from=base, lora=lora), Optimization(learning_rate=3e-2, weight_decay=0.1)
    )
    batch = batch_of(stage.backbone)
    fit(stage, [batch], max_steps=steps)
    return stage.backbone.eval(), batch


@torch.no_grad()
def logits_of(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    return backbone.logits(backbone(batch["input_ids"], batch["position_ids"]).main)


@torch.no_grad()
def plain_logits(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_named_weights_are_those_of_the_merged_model(tmp_path: Path, config: dict[str, Any]) -> None:
    base = base_of(tmp_path, config)
    backbone, batch = trained(base)
    original = AutoModelForCausalLM.from_pretrained(base)
    weights = dict(backbone.named_weights())
    own = dict(unpacked(original.state_dict().items()))
    assert {n: w.dtype for n, w in weights.items()} == {n: w.dtype for n, w in own.items()}
    assert not any(weight.requires_grad for weight in weights.values())
    assert (logits_of(backbone, batch) - plain_logits(original, batch)).abs().max() > 0.1
    original.config.tie_word_embeddings = False
    fresh = AutoModelForCausalLM.from_config(original.config)
    for name, weight in unpacked(fresh.state_dict().items()):
        weight.copy_(weights[name])
    assert_close(plain_logits(fresh.eval(), batch), logits_of(backbone, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_the_base_keeps_every_bit(tmp_path: Path, config: dict[str, Any]) -> None:
    base = base_of(tmp_path, config)
    backbone, _ = trained(base)
    backbone.export(tmp_path / "out")
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = {
        name.replace("token_adapter.", "").replace("base_layer.", ""): weight
        for name, weight in backbone.causal_lm.state_dict().items()
        if not is_adapter(name)
    }
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    ids = [*backbone.protocol.marker_ids.values(), backbone.protocol.end_id]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        moved = (dict(backbone.named_weights())[name] != before[name]).any(dim=1).nonzero()[:, 0].tolist()
        # A row of the embedding learns where its token occurs; one of the head always.
        assert set(moved) <= set(ids)
        assert {backbone.protocol.marker_ids[mark] for mark in ("<think_on>", "<think_off>")} <= set(moved)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_the_export_is_the_next_stages_start(tmp_path: Path, config: dict[str, Any]) -> None:
    backbone, batch = trained(base_of(tmp_path, config))
    backbone.export(tmp_path / "out")
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    truth = logits_of(backbone, batch)
    assert_close(plain_logits(model, batch), truth, rtol=0, atol=1e-5)
    following = Backbone(init_from=str(tmp_path / "out"), lora=LORA)
    following.materialize()
    assert_close(logits_of(following.eval(), batch), truth, rtol=0, atol=1e-5)
    mtp = [dict(b.mtp.state_dict()) for b in (backbone, following)]
    assert mtp[0].keys() == mtp[1].keys()
    assert all(torch.equal(mtp[0][name], mtp[1][name]) for name in mtp[0])


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize("train_markers", [True, False])
def test_peft_reads_the_adapters(tmp_path: Path, config: dict[str, Any], train_markers: bool) -> None:
    from peft import PeftModel

    base = base_of(tmp_path, config)
    backbone, batch = trained(base, lora=LoraSettings(rank=4, alpha=8.0, train_markers=train_markers))
    for _ in range(2):  # the second replaces the first
        backbone.export_adapters(tmp_path / "adapters")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapters", "base", "tokenizer"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapters")
    assert model.peft_config["default"].base_model_name_or_path == base
    assert_close(plain_logits(model.eval(), batch), logits_of(backbone, batch), rtol=0, atol=1e-5)


def test_adapters_of_a_first_stage_belong_to_the_resized_model(tmp_path: Path) -> None:
    from peft import PeftModel

    config = AutoConfig.for_model(**(QWEN | {"vocab_size": 256}))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "plain")
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    stage = ColdStartSFT(Backbone(str(tmp_path / "plain"), tokenizer=tokenizer, lora=LORA), FAST)
    batch = batch_of(stage.backbone)
    fit(stage, [batch], limit_val_batches=0)
    stage.backbone.export_adapters(tmp_path / "adapters")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    base.resize_token_embeddings(len(load_tokenizer(str(tmp_path / "adapters"), "test")))
    model = PeftModel.from_pretrained(base, tmp_path / "adapters").eval()
    assert_close(plain_logits(model, batch), logits_of(stage.backbone.eval(), batch), rtol=0, atol=1e-5)


def test_the_optimizer_sees_the_adapters_only(tmp_path: Path) -> None:
    stage = ColdStartSFT(Backbone(init_from=base_of(tmp_path), lora=LORA))
    stage.configure_model()
    groups = build_optimizer(stage, Optimization()).param_groups
    assert all(group["params"] for group in groups)
    names = {id(parameter): name for name, parameter in stage.named_parameters()}
    seen = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert len(seen) == 2 * 2 * 7 + 2  # A and B of seven matrices in two layers, rows of embedding and head
    assert all(is_adapter(name) for name in seen)


STAGES = {
    "sft": lambda backbone, base: ColdStartSFT(backbone, FAST),
    "distill": lambda backbone, base: DistillMTP(backbone, base, FAST, kd="jsd"),
    "srpo": lambda backbone, base: StepSRPO(backbone, FAST, kl_weight=0.1),
}


@pytest.mark.parametrize("kind", STAGES)
def test_every_stage_trains_the_adapters(tmp_path: Path, kind: str) -> None:
    base = base_of(tmp_path)
    stage: KatModule = STAGES[kind](Backbone(init_from=base, lora=LORA), base)
    stage.configure_model()
    before = {name: weight.clone() for name, weight in stage.backbone.state_dict().items()}
    fit(stage, [merge(step_batches(kind, 0))], limit_val_batches=0)
    moved = {
        name for name, weight in stage.backbone.state_dict().items() if not torch.equal(weight, before[name])
    }
    adapters = {name for name in before if is_adapter(name)}
    mtp = {name for name in before if name.startswith("mtp.")}
    # Nobody drew a marker, so no row of the embedding learns.
    assert moved | {
        "causal_lm.model.embed_tokens.token_adapter.trainable_tokens_delta.default"
    } == adapters | (mtp if kind == "distill" else set())


def test_the_reference_of_stage_3_is_the_model_before_it(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    stage = StepSRPO(Backbone(init_from=base, lora=LORA), FAST, kl_weight=0.1)
    stage.configure_model()
    batch = merge(step_batches("srpo", 0))
    fit(stage, [batch], limit_val_batches=0)
    original = AutoModelForCausalLM.from_pretrained(base)
    reference = stage._reference
    assert reference is not None
    hidden, head = reference.read(batch["input_ids"], batch["position_ids"])
    assert_close(hidden @ head.T, plain_logits(original, batch), rtol=0, atol=1e-5)


def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    base = base_of(tmp_path)

    def run(steps: int, folder: str, ckpt_path: Path | None = None) -> dict[str, Tensor]:
        torch.manual_seed(0 if ckpt_path is None else 9)
        stage = ColdStartSFT(Backbone(init_from=base, lora=LoraSettings(dropout=0.2)), FAST)
        trainer = Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[StepCheckpoint(str(tmp_path / folder), every_n_steps=1)],
        )  # fmt: skip
        loader = EpochLoader(lambda _: range(8), lambda step: merge(step_batches("sft", step)))
        trainer.fit(stage, loader, ckpt_path=ckpt_path)
        return dict(stage.backbone.named_weights(include_mtp=True))

    whole = run(5, "whole")
    run(2, "parts")
    resumed = run(5, "parts", tmp_path / "parts/step-00000002.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_adapters_start_as_nothing_and_by_the_seed(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    plain, one, twin, other = (
        Backbone(init_from=base, lora=lora, seed=seed)
        for lora, seed in ((None, 0), (LORA, 0), (LORA, 0), (LORA, 1))
    )
    state = torch.get_rng_state()
    for backbone in (plain, one, twin, other):
        backbone.materialize()
        torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), state)
    batch = batch_of(plain)
    assert torch.equal(logits_of(plain.eval(), batch), logits_of(one.eval(), batch))
    first, second, third = (dict(b.causal_lm.named_parameters()) for b in (one, twin, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_the_scale_is_alpha_over_rank(tmp_path: Path) -> None:
    backbone = Backbone(
        init_from=base_of(tmp_path), lora=LoraSettings(rank=2, alpha=5.0, target_modules=["v_proj"])
    )
    backbone.materialize()
    layer = backbone.causal_lm.model.layers[1].self_attn.v_proj
    a, b = (torch.randn_like(getattr(layer, side).default.weight) for side in ("lora_A", "lora_B"))
    with torch.no_grad():
        layer.lora_A.default.weight.copy_(a)
        layer.lora_B.default.weight.copy_(b)
    merged = dict(backbone.named_weights())["model.layers.1.self_attn.v_proj.weight"]
    assert_close(merged, layer.base_layer.weight + 2.5 * b @ a)


def test_a_base_in_bfloat16_has_adapters_in_float32(tmp_path: Path) -> None:
    backbone = Backbone(init_from=base_of(tmp_path), lora=LORA, dtype="bfloat16")
    stage = ColdStartSFT(backbone, FAST)
    fit(stage, [batch_of(backbone)], precision="bf16-mixed", limit_val_batches=0)
    dtypes = {is_adapter(name): weight.dtype for name, weight in backbone.causal_lm.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert all(weight.dtype == torch.bfloat16 for _, weight in backbone.named_weights())


@pytest.mark.parametrize("targets", [["q_proj", "query"], ["lm_head"], ["embed_tokens"], []])
def test_a_module_that_cannot_be_adapted_is_named(tmp_path: Path, targets: list[str]) -> None:
    backbone = Backbone(init_from=base_of(tmp_path), lora=LoraSettings(target_modules=targets))
    with pytest.raises(
        UserError, match=r"backbone\.lora\.target_modules: .*choose among \['down_proj'"
    ) as caught:
        backbone.materialize()
    assert repr(targets[-1:]) in str(caught.value)


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}):
        with pytest.raises(UserError, match=r"backbone\.lora: rank"):
            LoraSettings(**wrong)
    fresh = tiny_backbone(tmp_path, lora=LoraSettings(train_markers=False))
    with pytest.raises(UserError, match=r"train_markers: false, but 11 tokens are new"):
        fresh.materialize()
