"""Sharding as one process can see it; several: tests/integration/test_strategies.py."""

from pathlib import Path

import pytest
import torch
from tinymodel import packed, tiny_backbone
from torch.distributed.device_mesh import DeviceMesh

from katlit.model.sharding import shard


@pytest.mark.parametrize(
    ("precision", "computed"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)]
)
def test_mixed_precision_gathers_in_half_and_stores_whole(
    tmp_path: Path, mesh: DeviceMesh, precision: str, computed: torch.dtype
) -> None:
    backbone = tiny_backbone(tmp_path, mtp_depth=1)
    backbone.materialize()
    shard(backbone, mesh, precision)
    inside: set[torch.dtype] = set()
    layers = [*backbone.decoder()[0], *(module.block for module in backbone.mtp)]
    for layer in layers:
        layer.mlp.register_forward_hook(lambda part, *_: inside.add(part.up_proj.weight.dtype))
    batch = packed([[4, 3], [6]])
    hidden = backbone(batch["input_ids"], batch["position_ids"], with_mtp=True)
    assert {part.dtype for part in (hidden.main, *hidden.mtp, backbone.head_weight)} == {computed}
    assert inside == {computed}
    sum(backbone.logits(part).float().square().mean() for part in (hidden.main, *hidden.mtp)).backward()
    assert {weight.dtype for weight in backbone.parameters()} == {torch.float32}
    assert {weight.grad.dtype for weight in backbone.parameters()} == {torch.float32}
    assert {weight.dtype for _, weight in backbone.named_weights(include_mtp=True)} == {torch.float32}
