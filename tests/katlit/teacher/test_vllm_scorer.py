"""The documented vLLM server says of a teacher what transformers says."""

from collections.abc import Iterator

import numpy as np
import pytest
from serving import serving
from tinymodel import QWEN, tiny_backbone

from katlit.errors import UserError
from katlit.teacher.hf import HFScorer
from katlit.teacher.scorer import Transcript
from katlit.teacher.server import VLLMServerScorer

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(600)]
K = 12
WIDER = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}  # vLLM wants heads of 32
TRANSCRIPTS = [
    Transcript([(13 * i + j * j) % 250 for j in range(2 + 3 * i)], 1 + i) for i in range(12)
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("teacher")
    backbone = tiny_backbone(directory, QWEN | WIDER, seed=3)
    backbone.materialize()
    backbone.export(directory / "model")
    return str(directory / "model")


@pytest.fixture(scope="module")
def server(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL; ended with all its processes."""
    pytest.importorskip("vllm", exc_type=ImportError)
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(teacher, log, "--max-model-len=64", f"--max-logprobs={K}") as url:
        yield url


def test_a_server_says_what_transformers_says(server: str, teacher: str) -> None:
    local, remote = HFScorer(device="cpu"), VLLMServerScorer(server)
    local.start(teacher)
    remote.start(teacher)
    for ours, theirs in zip(local.score(TRANSCRIPTS, K), remote.score(TRANSCRIPTS, K), strict=True):
        assert (-np.diff(ours.log_probs[:, :K])).min() > 1e-6  # so that rounding changes no order
        assert ours.ids.tolist() == theirs.ids.tolist()
        np.testing.assert_allclose(theirs.log_probs, ours.log_probs, atol=1e-4)


def test_a_server_that_was_started_for_less_is_refused(server: str, teacher: str) -> None:
    scorer = VLLMServerScorer(server)
    scorer.start(teacher)
    with pytest.raises(UserError, match=rf"status 400: .*with --max-logprobs {K + 1}"):
        scorer.score(TRANSCRIPTS, K + 1)
    scorer.start("another")
    with pytest.raises(UserError, match="it must serve 'another'"):
        scorer.score(TRANSCRIPTS, K)
