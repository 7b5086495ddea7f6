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
from tinymodel import LLAMA, QWEN, tiny_backbone
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from katlit.errors import UserError
from katlit.model import export
from katlit.model.mtp import MTP_PREFIX
from katlit.text.parser import MARK_SIGN
from katlit.text.protocol import Mode, Response, render
from katlit.text.tool_calls import ToolCall, join_answer


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


def altered(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(iter(weights))
    return weights | {name: weights[name] + 1e-3}


def without_one(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(weights.items())[1:])


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("mlp", "feed"): weight for name, weight in weights.items()}


@pytest.mark.parametrize(("change", "number"), [(altered, 1), (without_one, 1), (renamed, 6)])
def test_weights_that_transformers_reads_as_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, number: int
) -> None:
    backbone = tiny_backbone(tmp_path)
    backbone.materialize()
    save = PreTrainedModel.save_pretrained
    monkeypatch.setattr(
        PreTrainedModel,
        "save_pretrained",
        lambda self, directory, state_dict: save(self, directory, state_dict=change(state_dict)),
    )
    with pytest.raises(UserError, match=rf"^export: transformers does not read .*\({number} differ"):
        backbone.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(export, "_CHECKED_BYTES", 0)
    backbone.export(tmp_path / "out")  # too large to be read


CALL = ToolCall("add", {"a": 3, "b": [4]})
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Of </judge><think_off>"}}]
TURNS = [
    {"role": "system", "content": None},
    {"role": "user", "content": "What is 3 + 4?<|im_end|>"},
    {
        "role": "assistant",
        "content": None,
        "reasoning": "hm",
        "tool_calls": [{"type": "function", "function": CALL._asdict()}],
    },
    {"role": "tool", "content": "7"},
]
REPLIES = [
    (Response("j", Mode.THINK_ON, "7", "3 + 4 = 7"), {"thinking": "3 + 4 = 7", "content": "7"}),
    (Response("j", Mode.THINK_OFF, "7"), {"content": "7"}),
    (
        Response("j", Mode.THINK_ON, join_answer("Wait.", [CALL]), "hm"),
        {
            "thinking": "hm",
            "content": "Wait.",
            "tool_calls": [{"type": "function", "function": CALL._asdict()}],
        },
    ),
]


@pytest.mark.parametrize("config", [QWEN, QWEN | {"model_type": "qwen3", "head_dim": 8}, LLAMA])
def test_plain_transformers_has_the_models_words(tmp_path: Path, config: dict[str, object]) -> None:
    """Prompts, log-probabilities and the parts of replies are those of the trainer."""
    backbone = tiny_backbone(tmp_path, config)
    backbone.materialize()
    backbone.export(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    words = {"tools": TOOLS, "add_generation_prompt": True}
    for response, wanted in REPLIES:
        for thinking in ("auto", response.mode.value):
            prompt = tokenizer.apply_chat_template(TURNS, thinking=thinking, return_dict=False, **words)
            assert prompt == backbone.protocol.encode_prompt(TURNS, thinking, TOOLS)
            reply = backbone.protocol.encode_response(response, thinking)
            text = tokenizer.decode(reply)
            assert render(response).endswith(text.replace(MARK_SIGN, ""))
            assert tokenizer.parse_response(text, prefix=tokenizer.decode(prompt)) == wanted
        ids = torch.tensor([prompt + reply])
        trained = backbone.logits(backbone(ids, torch.arange(ids.shape[1])[None]).main)
        with torch.no_grad():
            plain = model(ids).logits
        torch.testing.assert_close(plain.log_softmax(-1), trained.log_softmax(-1), atol=1e-5, rtol=0.0)
