"""How long a context a configuration allows, and that every engine keeps to it."""

import json
from pathlib import Path
from typing import Any

import pytest

from katlit.engines import HFEngine, VLLMEngine, VLLMServer
from katlit.engines.positions import positions
from katlit.errors import UserError

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}


@pytest.mark.parametrize(("config", "number"), [
    ({"max_position_embeddings": 100}, 100),
    ({"n_positions": 64}, 64),
    ({"vocab_size": 100}, None),  # a state-space model has no limit
    ({"text_config": {"max_position_embeddings": 100}}, 100),
    ({"max_position_embeddings": 100, "rope_parameters": YARN}, 400),  # counted before the scaling
    ({"max_position_embeddings": 400, "rope_scaling": YARN}, 400),  # counted after it
    ({"max_position_embeddings": 100, "rope_scaling": {"type": "linear", "factor": 2.0}}, 200),
    ({"max_position_embeddings": 100, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 100),
    ({"max_position_embeddings": 100, "rope_parameters": {"full": YARN, "sliding": {"rope_type": "default"}}},
     400),
])  # fmt: skip
def test_positions_of_a_configuration(config: dict[str, Any], number: int | None) -> None:
    assert positions(config) == number


@pytest.mark.parametrize("engine", [HFEngine, pytest.param(VLLMEngine, marks=pytest.mark.vllm), VLLMServer])
def test_a_context_beyond_the_positions_is_refused_before_anything_is_loaded(
    engine: type[HFEngine | VLLMEngine | VLLMServer], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 100}))
    with pytest.raises(UserError, match=r"max_context: 101, but .* 100 tokens; give at most 100"):
        engine(max_context=101).start(tmp_path)
