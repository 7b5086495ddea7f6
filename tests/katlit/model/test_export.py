import json
from pathlib import Path

import pytest
from tinymodel import tiny_backbone
from transformers import GenerationConfig

from katlit.model.backbone import Backbone


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
