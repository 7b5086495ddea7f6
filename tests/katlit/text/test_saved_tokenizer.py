"""The tokenizer that anyone loads from an export is the protocol's, whatever the type of the model."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from katlit.errors import UserError
from katlit.model.pretrained import load_tokenizer
from katlit.text import saved_tokenizer
from katlit.text.parser import MARK_SIGN
from katlit.text.protocol import Mode, Protocol, Response, prepare_tokenizer, render
from katlit.text.saved_tokenizer import save_tokenizer

STUDENT = Path(__file__).parents[3] / "assets/student"
TYPES = ["qwen2", "qwen3", "qwen3_5", "llama", "mistral", "gemma2", "phi3", "deepseek_v3", "smollm3"]
TEXT = "<|im_start|>user\nWhat's 12,345.67 + 2? Zürich, e\u0301té ５\n\n\tdon't<|im_end|>\n<judge>\n"


def save(directory: Path, kind: str) -> Protocol:
    tokenizer = load_tokenizer(str(STUDENT), "tokenizer")
    prepare_tokenizer(tokenizer)
    protocol = Protocol(tokenizer)
    (directory / "config.json").write_text(json.dumps({"model_type": kind}))
    save_tokenizer(protocol, directory)
    return protocol


@pytest.mark.parametrize("kind", TYPES)
def test_auto_tokenizer_gives_the_ids_of_the_file(tmp_path: Path, kind: str) -> None:
    protocol = save(tmp_path, kind)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    file = Tokenizer.from_file(str(STUDENT / "tokenizer.json"))
    assert loaded(TEXT)["input_ids"] == file.encode(TEXT, add_special_tokens=False).ids
    assert len(loaded) == len(protocol.tokenizer)
    turns = [{"role": "user", "content": "What's 3 + 4?"}]
    prompt = loaded.apply_chat_template(turns, add_generation_prompt=True, thinking="off")["input_ids"]
    assert prompt == protocol.encode_prompt(turns, "off")
    response = Response("Short", Mode.THINK_OFF, answer="7")
    ids = loaded(render(response))["input_ids"]
    assert loaded.decode(ids) == protocol.tokenizer.decode(ids)
    assert loaded.decode(ids).replace(MARK_SIGN, "") == render(response)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_it_can_be_saved_again(tmp_path: Path, kind: str) -> None:
    """A later stage starts from an export; its map must not end in a model of another type."""
    save(tmp_path, "qwen2")
    again = Protocol(load_tokenizer(str(tmp_path), "tokenizer"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    save_tokenizer(again, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"] == again.tokenizer(TEXT)["input_ids"]


def test_a_tokenizer_that_nothing_brings_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = PreTrainedTokenizerFast.from_pretrained(STUDENT)
    other.add_tokens(["12347"])
    monkeypatch.setattr(saved_tokenizer.AutoTokenizer, "from_pretrained", lambda *_: other)
    with pytest.raises(UserError, match=r"^export: .*gives other ids; with an auto_map .*gives other ids"):
        save(tmp_path, "qwen2")
