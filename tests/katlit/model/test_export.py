import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from stat import S_IMODE
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tinymodel import QWEN, tiny_backbone
from transformers import AutoModelForCausalLM, PreTrainedModel

from katlit.model.mtp import MTP_PREFIX


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def types(directory: Path) -> set[torch.dtype]:
    """The types of all tensors below a directory."""
    found = set()
    for path in directory.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (no mapping)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_the_type_of_the_weights_is_the_one_that_was_trained(
    tmp_path: Path, dtype: Any, precision: str | None
) -> None:
    backbone = tiny_backbone(tmp_path, mtp_depth=1, dtype=dtype)
    backbone.materialize()
    if precision is not None:
        backbone.to(getattr(torch, precision))  # as precision bf16-true does
    backbone.export(tmp_path / "out")
    expected = precision or dtype
    assert types(tmp_path / "out") == {getattr(torch, expected)}
    for file in ("config.json", "mtp/config.json"):
        assert json.loads((tmp_path / "out" / file).read_text())["dtype"] == expected


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], indirect=True, ids=oct)
def test_who_may_read_an_export_follows_from_the_umask(tmp_path: Path, umask: int) -> None:
    backbone = tiny_backbone(tmp_path, mtp_depth=2)
    backbone.materialize()
    backbone.export(tmp_path / "out")
    paths = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert {path.name for path in paths} >= {"out", "mtp", "deeper", "model.safetensors", "config.json"}
    expected = {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in paths}
    assert {path: S_IMODE(path.stat().st_mode) for path in paths} == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tokenizer"]


def test_several_files_have_a_right_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone(tmp_path, QWEN | {"tie_word_embeddings": True}, mtp_depth=1)
    backbone.materialize()
    backbone.export(tmp_path / "out")
    small = partial(PreTrainedModel.save_pretrained, max_shard_size="20KB")
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", lambda *args, **words: small(*args, **words))
        # Under ZeRO-3 the model itself holds no weights.
        patch.setattr(PreTrainedModel, "num_parameters", lambda *_: 0)
        backbone.export(tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    weights = {n: w for n, w in backbone.named_weights() if n != "lm_head.weight"}
    found = {}
    for name in set(index["weight_map"].values()):
        with safe_open(tmp_path / "out" / name, "pt") as file:
            found |= {key: (name, file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 (no mapping)
    assert {name: file for name, (file, _) in found.items()} == index["weight_map"]
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name][1], weight) for name, weight in weights.items())
    number = sum(weight.numel() for weight in weights.values())
    assert index["metadata"] == {"total_parameters": number, "total_size": 4 * number}
    files = {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert files == set(index["weight_map"].values())
    assert len(files) > 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())
    assert not any(name.startswith(MTP_PREFIX) for name in found)
