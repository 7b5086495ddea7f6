"""A model whose documents see each other in a packed row is refused when its weights are there."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import LLAMA, QWEN, QWEN3_MOE, packed, tiny_backbone
from transformers import AutoConfig, AutoModelForCausalLM

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.packed_rows import require_documents_apart
from katlit.modules import DistillMTP

APART: dict[str, dict[str, Any]] = {
    "qwen2": QWEN,
    "llama": LLAMA,
    "qwen3_moe": QWEN3_MOE,
    "gpt2": QWEN | {"model_type": "gpt2"},
    "gpt_neox": QWEN | {"model_type": "gpt_neox"},
    "gemma3_text": QWEN | {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 4},
}
TOGETHER: dict[str, dict[str, Any]] = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {},
    "biogpt": {},
    "bloom": {},
    "mamba": {"state_size": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
    "xglm": {"d_model": 32, "ffn_dim": 48, "attention_heads": 4},
    "qwen3_5_text": {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
}


def leak(backbone: Backbone) -> float:
    """How far a document moves where the one before it in its row is another."""
    batch = packed([[9, 12]])
    other = batch["input_ids"].clone()
    other[0, :9] = (other[0, :9] + 7) % 256
    with torch.no_grad():
        one, two = (backbone.eval()(ids, batch["position_ids"]).main for ids in (batch["input_ids"], other))
    return (one - two)[0, 9:].abs().max().item()


@pytest.mark.parametrize("config", APART.values(), ids=APART)
def test_documents_apart(tmp_path: Path, config: dict[str, Any]) -> None:
    backbone = tiny_backbone(tmp_path, config)
    backbone.materialize()
    assert leak(backbone) < 1e-5
    for mode in (True, False):
        require_documents_apart(backbone.causal_lm.train(mode).to(torch.bfloat16), "backbone")
        assert backbone.causal_lm.training == mode


@pytest.mark.parametrize("kind", TOGETHER)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_documents_together(tmp_path: Path, kind: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = QWEN | {"model_type": kind} | TOGETHER[kind]
    make = partial(tiny_backbone, config=config, dtype=dtype, attention="eager")
    with pytest.raises(UserError, match=rf"^backbone: in {kind} models the documents of a packed row see"):
        make(tmp_path / "refused").materialize()
    monkeypatch.setattr("katlit.model.backbone.require_documents_apart", lambda model, key: None)
    backbone = make(tmp_path / "taken")
    backbone.materialize()
    assert leak(backbone) > 0.1


def test_without_weights_nothing_is_measured(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, QWEN)
    backbone.materialize()
    passes: list[object] = []
    model = backbone.causal_lm.to("meta")
    model.base_model.register_forward_hook(lambda *given: passes.append(given))
    require_documents_apart(model, "backbone")
    assert passes == []


def test_a_teacher_is_measured_too(tmp_path: Path) -> None:
    config = AutoConfig.for_model(**{"vocab_size": 256} | QWEN | {"model_type": "falcon"})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "teacher")
    backbone = tiny_backbone(tmp_path)
    backbone.materialize()
    module = DistillMTP(backbone, str(tmp_path / "teacher"))
    with pytest.raises(UserError, match=r"^model\.teacher: in falcon models the documents of a packed row"):
        module.load_companions()


def test_what_cannot_run_here_is_let_pass_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone(tmp_path)
    backbone.materialize()
    model = backbone.causal_lm.train()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel\nfor it")

    monkeypatch.setattr(model.base_model, "forward", fail)
    with pytest.warns(UserWarning, match=r"^backbone: the model could not be tried .*\(RuntimeError"):
        require_documents_apart(model, "backbone")
    assert model.training
