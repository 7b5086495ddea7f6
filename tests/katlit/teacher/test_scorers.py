"""Scorers against a model's own logits, and a server that answers as vLLM does, or does not."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_vllm import Fake, reply
from tinymodel import tiny_backbone
from transformers import AutoModelForCausalLM

from katlit.errors import UserError
from katlit.teacher.hf import HFScorer
from katlit.teacher.scorer import TopK, Transcript
from katlit.teacher.server import VLLMServerScorer

TRANSCRIPTS = [
    Transcript([5, 3, 8, 9, 2, 1, 7], 3), Transcript([4, 4, 6], 1), Transcript([9, 1, 2, 3, 200], 4),
    Transcript([7, 7], 2),
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("teacher")
    backbone = tiny_backbone(directory, seed=3)
    backbone.materialize()
    backbone.export(directory / "model")
    return str(directory / "model")


def truth(model: str, transcript: Transcript) -> torch.Tensor:
    """Full distributions of the response, one text at a time."""
    network = AutoModelForCausalLM.from_pretrained(model).eval()
    with torch.no_grad():
        logits = network(torch.tensor([transcript.token_ids])).logits[0].double()
    return logits.softmax(dim=-1)[transcript.start - 1 : -1]


def compare(tops: list[TopK], model: str, k: int, least: float = 0.0) -> None:
    for top, transcript in zip(tops, TRANSCRIPTS, strict=True):
        p, ids = truth(model, transcript).sort(dim=-1, descending=True)
        assert top.ids.tolist() == ids[:, :k].tolist()
        rest = p[:, k:].sum(dim=-1, keepdim=True).clamp(min=least)
        expected = torch.cat([p[:, :k], rest], dim=-1).log()
        np.testing.assert_allclose(top.log_probs, expected.numpy(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 14, 1000])
@pytest.mark.parametrize("placement", ["device", "cpu"])
def test_transformers_gives_the_distributions_of_the_response(
    model: str, batch_tokens: int, placement: Any
) -> None:
    scorer = HFScorer(batch_tokens, placement=placement, device="cpu")
    scorer.start(model)
    compare(scorer.score(TRANSCRIPTS, 5), model, 5)
    scorer.close()
    with pytest.raises(RuntimeError, match="not started"):
        scorer.score(TRANSCRIPTS, 5)


def test_all_tokens_leave_no_rest(model: str) -> None:
    size = truth(model, TRANSCRIPTS[0]).shape[-1]
    scorer = HFScorer(device="cpu")
    scorer.start(model)
    (top,) = scorer.score(TRANSCRIPTS[:1], size)
    assert (top.log_probs[:, -1] == -np.inf).all()


@pytest.fixture
def fake(model: str) -> Iterator[Fake]:
    """Answers from the model: in any order, and with the token of the prompt beyond the k likeliest."""
    import threading

    server = Fake()

    def answer(_: Any, body: Any) -> Any:
        ids, k = body["prompt"], body["prompt_logprobs"]
        places: list[Any] = [None]
        for row, token in zip(truth(model, Transcript(ids, 1)).log(), ids[1:], strict=True):
            order = row.argsort(descending=True).tolist()
            shown = [token, *reversed(order[:k])]
            places.append({str(t): {"rank": order.index(t) + 1, "logprob": float(row[t])} for t in shown})
        return {"choices": [{"prompt_logprobs": places}]}

    server.answers["/v1/completions"] = answer
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("requests", [1, 16])
def test_a_server_gives_the_same(fake: Fake, model: str, requests: int) -> None:
    scorer = VLLMServerScorer(fake.url + "/", requests)
    scorer.start("teacher-7b")
    compare(scorer.score(TRANSCRIPTS, 5), model, 5, least=1e-6)
    scorer.close()
    assert {body["model"] for _, body in fake.said} == {"teacher-7b"}


def entry(rank: int, log_prob: float) -> dict[str, Any]:
    return {"rank": rank, "logprob": log_prob}


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ([None, {"3": entry(1, -0.5), "4": entry(2, -1.0)}], "argument 2 is longer"),
        ([None, *[{"3": entry(1, -0.5)}] * 2], "not the 2 likeliest"),
        ([None, *[{"3": entry(1, -0.5), "4": entry(9, -3.0)}] * 2], "not the 2 likeliest"),
        ([None, *[{"3": entry(1, -0.5), "4": entry(2, float("nan"))}] * 2], "not the 2 likeliest"),
        ([None, *[{"3": entry(1, 7.5), "4": entry(2, 3.0)}] * 2], "logprobs-mode raw_logprobs"),
        ("text", "argument 2 is|has no attribute"),
        (None, "not iterable|NoneType"),
    ],
)
def test_what_vllm_would_not_answer(fake: Fake, places: Any, reason: str) -> None:
    fake.answers["/v1/completions"] = lambda *_: {"choices": [{"prompt_logprobs": places}]}
    scorer = VLLMServerScorer(fake.url)
    scorer.start("teacher")
    with pytest.raises(UserError, match=reason):
        scorer.score([TRANSCRIPTS[1]], 2)


def test_a_server_that_refuses_or_is_not_there(fake: Fake) -> None:
    scorer = VLLMServerScorer(fake.url)
    scorer.start("teacher")
    fake.answers["/v1/completions"] = lambda handler, _: reply(
        handler, json.dumps({"error": "The model `teacher` does not exist"}), status=404
    )
    with pytest.raises(UserError, match=r"status 404.*does not exist.*--max-logprobs 5"):
        scorer.score(TRANSCRIPTS, 5)
    gone = VLLMServerScorer("http://127.0.0.1:9")
    gone.start("teacher")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9: .*does the server run\?"):
        gone.score(TRANSCRIPTS, 5)


@pytest.mark.parametrize(
    ("make", "name"), [(lambda: HFScorer(0), "batch_tokens"), (lambda: VLLMServerScorer("u", 0), "requests")]
)
def test_numbers_below_one(make: Any, name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: 0; give at least 1"):
        make()
