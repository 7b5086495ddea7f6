import json
from pathlib import Path

import pytest
import torch
from tinymodel import LLAMA, QWEN, tiny_backbone
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from katlit.model.backbone import Backbone
from katlit.text.protocol import Mode, Response, render
from katlit.text.tool_calls import ToolCall, join_answer


@pytest.mark.parametrize(
    "invalid", [{"do_sample": False, "temperature": 0.6}, {"do_sample": False, "top_p": 0.9, "num_beams": 1}]
)
def test_generation_settings_that_cannot_be_saved_are_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, invalid: dict[str, object]
) -> None:
    first = tiny_backbone(tmp_path)
    first.materialize()
    first.export(tmp_path / "base")
    path = tmp_path / "base/generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | invalid))
    backbone = Backbone(init_from=str(tmp_path / "base"))
    backbone.materialize()
    backbone.export(tmp_path / "out")
    found = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (found.temperature, found.top_p) == (None, None)
    assert found.eos_token_id == backbone.protocol.end_id
    assert "generation_config.json of the base is replaced" in caplog.text


def test_valid_generation_settings_are_kept(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path)
    backbone.materialize()
    backbone.causal_lm.generation_config = GenerationConfig(do_sample=True, temperature=0.6)
    backbone.export(tmp_path / "out")
    assert GenerationConfig.from_pretrained(tmp_path / "out").temperature == 0.6


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
            assert render(response).endswith(text)
            assert tokenizer.parse_response(text, prefix=tokenizer.decode(prompt)) == wanted
        ids = torch.tensor([prompt + reply])
        trained = backbone.logits(backbone(ids, torch.arange(ids.shape[1])[None]).main)
        with torch.no_grad():
            plain = model(ids).logits
        torch.testing.assert_close(plain.log_softmax(-1), trained.log_softmax(-1), atol=1e-5, rtol=0.0)
