"""Markers that stood in a base's tokenizer while it was trained on other things."""

import json
import logging
from pathlib import Path

import pytest
import torch
from tinymodel import QWEN, write_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.card import RECORD
from katlit.model.lora import LoraSettings
from katlit.model.pretrained import Dtype
from katlit.text.protocol import MARKERS

STAGE = {"stage": "DistillMTP", "steps": 1, "data": [], "datasets": [], "settings": {}, "versions": {}}


def base_of(directory: Path, kind: str, *, tied: bool) -> tuple[str, list[Tensor]]:
    """A base with three markers of the same row, as reserved tokens are, and three of their own."""
    config = QWEN | {"vocab_size": 262, "tie_word_embeddings": tied}
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    tables = [plain.get_input_embeddings().weight, plain.get_output_embeddings().weight]
    with torch.no_grad():
        for table in tables:
            noise = 0.01 * table[256].std() * torch.randn(3, table.shape[1])
            table[256:259] = 0.0 if kind == "zeros" else table[256] + noise
    plain.save_pretrained(directory)
    write_tokenizer(directory, extra=MARKERS[:6])
    return str(directory), [table.detach().clone() for table in tables]


def tables_of(backbone: Backbone) -> list[Tensor]:
    backbone.materialize()
    return [backbone.causal_lm.get_input_embeddings().weight, backbone.head_weight]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["near", "zeros"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_markers_that_a_base_never_met_are_told_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, tied: bool, dtype: Dtype
) -> None:
    base, before = base_of(tmp_path, kind, tied=tied)
    with caplog.at_level(logging.INFO, "katlit"):
        drawn = tables_of(Backbone(model=base, dtype=dtype))
    assert caplog.messages == [f"{', '.join(MARKERS[:3])} had all but the same row, new ones were drawn"]
    for old, new, again in zip(before, drawn, tables_of(Backbone(init_from=base, dtype=dtype)), strict=True):
        old = old.to(new.dtype)
        assert torch.equal(new, again)
        assert torch.equal(new[:256], old[:256])
        assert torch.equal(new[259:262], old[259:])
        assert torch.pdist(new[256:].float()).min() > 0.5 * torch.pdist(old[:256].float()).min()


def test_what_a_stage_has_trained_stays(tmp_path: Path) -> None:
    base, before = base_of(tmp_path, "near", tied=False)
    (tmp_path / RECORD).write_text(json.dumps({"base": None, "stages": [STAGE]}))
    for old, new in zip(before, tables_of(Backbone(init_from=base)), strict=True):
        assert torch.equal(new[:262], old)


def test_rows_drawn_anew_are_trained_beside_adapters_or_refused(tmp_path: Path) -> None:
    base, _ = base_of(tmp_path / "base", "near", tied=True)
    adapted = Backbone(model=base, lora=LoraSettings(rank=2))
    rows = tables_of(adapted)[0]
    adapted.export(tmp_path / "merged")
    assert torch.equal(tables_of(Backbone(init_from=str(tmp_path / "merged")))[0], rows)
    with pytest.raises(UserError, match="train_markers: false, but 3 markers"):
        Backbone(model=base, lora=LoraSettings(train_markers=False)).materialize()
