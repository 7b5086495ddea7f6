"""A mixture of experts in a stage: its router's loss, what is logged of it, and models that are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fixedbatches import merge, step_batches
from tinymodel import QWEN, QWEN2_MOE, QWEN3_MOE, fit, packed, tiny_backbone
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.lora import LoraSettings
from katlit.modules import ColdStartSFT, DistillMTP, StepSRPO
from katlit.stage.module import KatModule
from katlit.stage.optimization import Optimization

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
STILL = Optimization(learning_rate=0.0)
STAGES: dict[str, Any] = {
    "sft": lambda backbone: ColdStartSFT(backbone, STILL),
    "distill": lambda backbone: DistillMTP(backbone, optimization=STILL, kd="none"),
    "srpo": lambda backbone: StepSRPO(backbone, STILL),
}


def logged(stage: KatModule, batches: list[Any], **settings: Any) -> dict[str, float]:
    """What a step logs, of as many micro-batches as there are."""
    parts = len(batches)
    batches = [batch | {"window": batches if i == 0 else []} for i, batch in enumerate(batches)]
    trainer = fit(stage, batches, max_steps=1, limit_val_batches=0, accumulate_grad_batches=parts, **settings)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def stage_batch(kind: str, backbone: Backbone) -> dict[str, Any]:
    """Packed rows with padding."""
    batch = merge(step_batches(kind, 0))
    batch["input_ids"][1, 12:] = backbone.protocol.pad_id
    return batch


@torch.no_grad()
def router_truth(stage: KatModule, batch: dict[str, Any]) -> float:
    """transformers' loss, layer by layer, from what it records itself."""
    backbone = stage.backbone
    model = backbone.causal_lm.base_model
    output = model(
        batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, output_router_logits=True
    )
    mask = (batch["input_ids"] != backbone.protocol.pad_id).long()
    losses = [load_balancing_loss_func((logits,), 4, 2, mask) for logits in output.router_logits]
    assert len(losses) == 2
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("config", [QWEN3_MOE, QWEN2_MOE], ids=["qwen3_moe", "qwen2_moe"])
@pytest.mark.parametrize("kind", STAGES)
def test_every_stage_adds_the_routers_loss(tmp_path: Path, kind: str, config: dict[str, Any]) -> None:
    rows = {}
    for weight in (0.0, 0.5, None):
        stage = STAGES[kind](tiny_backbone(tmp_path, config, router_loss_weight=weight))
        batch = stage_batch(kind, stage.backbone)
        rows[weight] = logged(stage, [batch])
        truth = router_truth(stage, batch)
        assert rows[weight]["train/router_loss"] == pytest.approx(truth, rel=1e-5)
    loss = {weight: row["train/loss"] for weight, row in rows.items()}
    assert loss[0.5] - loss[0.0] == pytest.approx(0.5 * truth, rel=1e-4)
    assert loss[None] - loss[0.0] == pytest.approx(0.001 * truth, rel=1e-2)  # the model's own
    assert 1 < rows[None]["router/max_load"] <= 2  # of 4 experts two are chosen
    assert 0 <= rows[None]["router/idle_experts"] < 0.5


def test_micro_batches_weigh_by_their_tokens(tmp_path: Path) -> None:
    stage = ColdStartSFT(tiny_backbone(tmp_path, QWEN3_MOE), STILL)
    batches = [packed([[9, 7], [12]]), packed([[4]])]
    batches[0]["input_ids"][1, 12:] = stage.backbone.protocol.pad_id
    found = logged(stage, batches)
    truth = (28 * router_truth(stage, batches[0]) + 4 * router_truth(stage, batches[1])) / 32
    assert found["train/router_loss"] == pytest.approx(truth, rel=1e-5)
    with torch.no_grad():
        routing = [stage.backbone(b["input_ids"], b["position_ids"]).routing for b in batches]
    layers = []
    for layer in range(2):
        chosen = [r[layer].topk(2).indices for r in routing]
        chosen[0] = chosen[0][batches[0]["input_ids"].flatten() != stage.backbone.protocol.pad_id]
        layers.append(torch.cat(chosen).flatten().bincount(minlength=4))
    assert found["router/max_load"] == pytest.approx(torch.stack(layers).max().item() / 16)


def test_the_loss_evens_the_load(tmp_path: Path) -> None:
    def train(weight: float) -> dict[str, float]:
        stage = ColdStartSFT(
            tiny_backbone(tmp_path, QWEN3_MOE, router_loss_weight=weight), Optimization(learning_rate=3e-3)
        )
        trainer = fit(stage, [packed([[32]])], max_steps=30, limit_val_batches=0)
        return {name: value.item() for name, value in trainer.callback_metrics.items()}

    without, with_it = train(0.0), train(1.0)
    assert with_it["train/router_loss"] < 2.02 < without["train/router_loss"]  # 2 is even
    assert with_it["router/max_load"] < without["router/max_load"]


def test_the_routers_of_mtp_modules_are_balanced_too(tmp_path: Path) -> None:
    stage = DistillMTP(
        tiny_backbone(tmp_path, QWEN3_MOE, mtp_depth=1), optimization=STILL, kd="none", mtp_weight=0.3
    )
    batch = step_batches("distill", 0)[0]
    found = logged(stage, [batch])
    with torch.no_grad():
        routing = stage.backbone(batch["input_ids"], batch["position_ids"], with_mtp=True).routing
    assert len(routing) == 3
    truth = torch.stack([load_balancing_loss_func((logits,), 4, 2) for logits in routing]).mean()
    assert found["train/router_loss"] == pytest.approx(truth.item(), rel=1e-5)


def test_routers_are_frozen_under_lora_and_their_loss_left_out(tmp_path: Path) -> None:
    rows = {}
    for weight in (None, 0.0):
        backbone = tiny_backbone(tmp_path, QWEN2_MOE, lora=LoraSettings(rank=4), router_loss_weight=weight)
        stage = ColdStartSFT(backbone, STILL)
        rows[weight] = logged(stage, [stage_batch("sft", backbone)])
        trained = [name for name, weight in backbone.named_parameters() if weight.requires_grad]
        assert any(".shared_expert." in name for name in trained)
        assert not any(".gate.weight" in name or ".experts." in name for name in trained)
    assert rows[None] == rows[0.0]
    assert rows[None]["train/router_loss"] > 0


@pytest.mark.parametrize("config", [QWEN3_MOE, QWEN2_MOE], ids=["qwen3_moe", "qwen2_moe"])
def test_experts_take_no_adapters(tmp_path: Path, config: dict[str, Any]) -> None:
    backbone = tiny_backbone(tmp_path, config, lora=LoraSettings(target_modules=["q_proj", "gate_up_proj"]))
    with pytest.raises(UserError, match=r"\['gate_up_proj'\] are no linear layers of qwen._moe's decoder"):
        backbone.materialize()


def test_a_dense_model_has_no_routing(tmp_path: Path) -> None:
    stage = ColdStartSFT(tiny_backbone(tmp_path), STILL)
    assert not any("router" in name for name in logged(stage, [packed([[5]])]))


def test_unknown_experts_and_senseless_weights_are_refused(tmp_path: Path) -> None:
    mixtral = QWEN | {"model_type": "mixtral", "num_local_experts": 4}
    with pytest.raises(UserError, match="the experts of mixtral are not known here"):
        tiny_backbone(tmp_path, mixtral).materialize()
    for weight in (-0.1, float("nan")):
        with pytest.raises(UserError, match=r"backbone\.router_loss_weight: "):
            Backbone(router_loss_weight=weight)
    with pytest.raises(
        UserError, match=r"router_loss_weight: 0\.1, but qwen2 has no experts; set it to null"
    ):
        tiny_backbone(tmp_path, router_loss_weight=0.1).materialize()


def test_a_mixture_of_another_kind_may_teach(tmp_path: Path) -> None:
    mixtral = QWEN | {"model_type": "mixtral", "num_local_experts": 4, "vocab_size": 300}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**mixtral)).save_pretrained(tmp_path / "teacher")
    stage = DistillMTP(tiny_backbone(tmp_path), str(tmp_path / "teacher"), STILL, kd="uld")
    assert logged(stage, [step_batches("distill", 0)[0]])["train/kd"] > 0
