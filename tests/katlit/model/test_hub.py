"""Models by their name on the hub, from a cache written here; nothing is asked of a network."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from katlit.errors import UserError
from katlit.model import hub
from katlit.model.hub import local_directory
from katlit.model.pretrained import declared_ends, load_config, load_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder of `someone/model`, whose tokenizer splits nothing as Qwen's own would."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub._snapshot.cache_clear()  # what other tests have found
    root = tmp_path / "models--someone--model"
    snapshot = root / "snapshots" / COMMIT
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    backend = Tokenizer(models.WordLevel({"ab": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(snapshot)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "qwen2", "eos_token_id": 2}))
    return snapshot


def test_a_name_is_found_in_the_cache(cached: Path) -> None:
    (cached / "model.safetensors").write_bytes(b"")
    assert local_directory("someone/model", "teacher") == cached
    assert local_directory(str(cached), "teacher") == cached


@pytest.mark.usefixtures("cached")
def test_descriptions_are_read_by_name_as_they_are_from_a_directory() -> None:
    tokenizer = load_tokenizer("someone/model", "teacher")
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab")["input_ids"]) == ["ab"]
    assert tokenizer.name_or_path == "someone/model"
    assert load_config("someone/model", "teacher").model_type == "qwen2"


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"eos_token_id": [3, 4]}, [3, 4]),
        ({"eos_token_id": 5}, [5]),
        ({"temperature": 1.0}, [2]),
        (None, [2]),
    ],
)
def test_ends_are_declared_by_the_generation_settings_or_the_configuration(
    cached: Path, settings: dict[str, object] | None, ends: list[int]
) -> None:
    if settings is not None:
        (cached / "generation_config.json").write_text(json.dumps(settings))
    assert declared_ends("someone/model", "teacher") == ends
    (cached / "generation_config.json").unlink(missing_ok=True)
    (cached / "config.json").unlink()
    assert declared_ends("someone/model", "teacher") == []


@pytest.mark.usefixtures("cached")
def test_what_is_nowhere_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^teacher: 'someone/other' is no directory, and the .*hub cannot"):
        local_directory("someone/other", "teacher")
    with pytest.raises(UserError, match=r"^teacher: 'one two' is no directory"):
        local_directory("one two", "teacher")
    with pytest.raises(UserError, match=r"^teacher: directory './gone' does not exist"):
        local_directory("./gone", "teacher")
    with pytest.raises(UserError, match=r"without its weights .*; get them by `hf download someone/model`"):
        local_directory("someone/model", "teacher")
