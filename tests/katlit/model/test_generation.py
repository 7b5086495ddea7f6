import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tinymodel import LLAMA, tiny_backbone
from transformers import AutoModelForCausalLM, GenerationConfig

from katlit.errors import UserError
from katlit.model.backbone import Backbone
from katlit.model.generation import TokenSampling

# What published models bring, and worse.
HOSTILE: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "min_p": 0.1,
    "repetition_penalty": 1.05,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[5], [6]],
    "suppress_tokens": [7],
    "max_new_tokens": 4,
    "min_length": 3,
    "forced_eos_token_id": 9,
    "eos_token_id": [2, 10**6],
}
WITH_PAIRS = [{"do_sample": False, "temperature": 0.6}, {"do_sample": False, "top_p": 0.9, "num_beams": 1}]


def exported(directory: Path, settings: dict[str, Any], sampling: TokenSampling) -> Backbone:
    """A model that was exported from a base with these settings of generation, into `out`."""
    first = tiny_backbone(directory, LLAMA)
    first.materialize()
    first.export(directory / "base")
    path = directory / "base/generation_config.json"
    path.write_text(json.dumps(settings))
    backbone = Backbone(init_from=str(directory / "base"))
    backbone.materialize()
    backbone.export(directory / "out", sampling)
    return backbone


@pytest.mark.parametrize("settings", [HOSTILE, *WITH_PAIRS])
def test_nothing_of_the_base_is_left_but_the_ends_of_its_turns(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    backbone = exported(tmp_path, settings, TokenSampling())
    protocol = backbone.protocol
    found = GenerationConfig.from_pretrained(tmp_path / "out").to_diff_dict()  # what vLLM reads
    assert found.pop("transformers_version")
    assert found == {
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "eos_token_id": [protocol.end_id],
        "pad_token_id": protocol.pad_id,
    }


def test_the_ends_of_the_base_follow_ours_through_all_stages(tmp_path: Path) -> None:
    first = tiny_backbone(tmp_path)
    tokenizer = first.load_tokenizer().tokenizer
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|eot|>"]}, replace_extra_special_tokens=False)
    first.materialize()
    eot, end = tokenizer.convert_tokens_to_ids("<|eot|>"), first.protocol.end_id
    first.causal_lm.generation_config = GenerationConfig(eos_token_id=[eot, 2])
    for stage in ("one", "two"):
        first.export(tmp_path / stage)
        found = GenerationConfig.from_pretrained(tmp_path / stage)
        assert found.eos_token_id == [end, eot]
        first = Backbone(init_from=str(tmp_path / stage))
        first.materialize()


@pytest.mark.parametrize(
    "sampling", [TokenSampling(), TokenSampling(0.5), TokenSampling(temperature=0.0, top_p=0.9)]
)
def test_plain_transformers_samples_as_told(tmp_path: Path, sampling: TokenSampling) -> None:
    exported(tmp_path, HOSTILE, sampling)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt = torch.tensor([[70, 71, 72]])
    result = model.generate(prompt, max_new_tokens=6, output_scores=True, output_logits=True,
                            return_dict_in_generate=True)  # fmt: skip
    scores, logits = torch.cat(result.scores), torch.cat(result.logits)
    if sampling.temperature:
        torch.testing.assert_close(scores, logits / sampling.temperature)
    else:
        assert result.sequences[0, 3:].tolist() == logits.argmax(-1).tolist()


def test_what_engines_would_read_differently_is_refused() -> None:
    with pytest.raises(UserError, match=r"temperature: 0\.001; give 0 \(greedy\) or at least 0\.01"):
        TokenSampling(temperature=0.001)
