from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import QWEN, packed, tiny_backbone

from katlit.model.dropout import remove_dropout
from katlit.model.lora import LoraSettings

GPT2: dict[str, Any] = {
    "model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64,
    "attn_pdrop": 0.1, "embd_pdrop": 0.2, "resid_pdrop": 0.3,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "settings", "told"),
    [
        (QWEN | {"attention_dropout": 0.5}, {}, "attention_dropout 0.5"),
        (QWEN | {"attention_dropout": 0.5}, {"attention": "eager", "mtp_depth": 1}, "attention_dropout 0.5"),
        (QWEN, {"lora": LoraSettings(rank=2, dropout=0.5)}, "Dropout 0.5"),
        (GPT2, {}, "attn_pdrop 0.1, embd_pdrop 0.2, resid_pdrop 0.3"),
    ],
)
def test_two_forward_passes_agree(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    config: dict[str, Any],
    settings: dict[str, Any],
    told: str,
) -> None:
    backbone = tiny_backbone(tmp_path, config, **settings)
    backbone.materialize()
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    backbone.train()
    batch = packed([[6, 4]])
    inputs = batch["input_ids"], batch["position_ids"]
    depth = len(backbone.mtp) > 0
    assert not torch.equal(backbone(*inputs).main, backbone(*inputs).main)
    remove_dropout(backbone)
    first, second = backbone(*inputs, depth), backbone(*inputs, depth)
    assert torch.equal(first.main, second.main)
    assert all(map(torch.equal, first.mtp, second.mtp))
    remove_dropout(backbone)
    (message,) = (record.message for record in caplog.records if record.name == "katlit.model.dropout")
    assert message.startswith("dropout is set to 0")
    assert told in message
