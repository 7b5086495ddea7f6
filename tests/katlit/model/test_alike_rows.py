"""Markers that stood in a base's tokenizer while it was trained on other things."""

from pathlib import Path

import pytest
import torch
from tinymodel import QWEN, write_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.lora import LoraSettings
from katlit.text.protocol import MARKERS


@pytest.mark.parametrize("tied", [True, False])
def test_markers_that_a_base_never_met_are_told_apart(tmp_path: Path, tied: bool) -> None:
    """Three markers have the same row, as reserved tokens do, and three others rows of their own."""
    config = QWEN | {"vocab_size": 262, "tie_word_embeddings": tied}
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    tables = [plain.get_input_embeddings().weight, plain.get_output_embeddings().weight]
    with torch.no_grad():
        for table in tables:
            table[256:259] = table[256] + 0.01 * table[256].std() * torch.randn(3, table.shape[1])
    before = [table.detach().clone() for table in tables]
    plain.save_pretrained(tmp_path)
    write_tokenizer(tmp_path, extra=MARKERS[:6])
    backbone, further = Backbone(model=str(tmp_path)), Backbone(init_from=str(tmp_path))
    for each in (backbone, further):
        each.materialize()
    for index, old in enumerate(before):
        new, kept = (
            [each.causal_lm.get_input_embeddings().weight, each.head_weight][index]
            for each in (backbone, further)
        )
        assert torch.equal(kept[:262], old)  # a stage's markers are trained
        assert torch.equal(new[:256], old[:256])
        assert torch.equal(new[259:262], old[259:])
        assert torch.pdist(new[256:]).min() > 0.5 * torch.pdist(old[:256]).min()
    fixed = Backbone(model=str(tmp_path), lora=LoraSettings(train_markers=False))
    with pytest.raises(UserError, match="train_markers: false, but 3 markers"):
        fixed.materialize()
